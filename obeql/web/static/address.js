// The state of the page in its address, so that a reload, a bookmark or a link brings it back.

/** @typedef {Record<string, string>} State */

/** @returns {State} */
export const read = () => Object.fromEntries(new URLSearchParams(location.search));

/** Put a state into the address; a step back in the browser returns to the one before where `step`. @param {Record<string, any>} state @param {boolean} [step] */
export function write(state, step = false) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) if (value !== null && value !== undefined && value !== "") words.set(name, String(value));
  const address = words.size ? `/?${words}` : "/";
  if (address === location.pathname + location.search) return;
  history[step ? "pushState" : "replaceState"](null, "", address);
}
