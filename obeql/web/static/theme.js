// Light or dark: as the system says, unless this browser was told otherwise.

/** @param {HTMLButtonElement} button */
export function themeSwitch(button) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const now = () => document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  const show = () => {
    button.textContent = now() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use ${now() === "dark" ? "light" : "dark"} colors`);
  };
  try {
    const kept = localStorage.getItem("obeql-theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch {
    // a browser that keeps nothing
  }
  button.onclick = () => {
    const next = now() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("obeql-theme", next);
    } catch {
      // likewise
    }
    show();
  };
  dark.addEventListener("change", show);
  show();
}
