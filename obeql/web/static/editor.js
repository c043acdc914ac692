// A statement that is typed: colors, completion and the place of a mistake, all of which the server says, as at the prompt.
//
// A text area over a colored copy of its text; the text area has the text, the copy has the colors.

import { post } from "./api.js";
import { later, make, oneAtATime } from "./dom.js";

export class Editor {
  /**
   * @param {HTMLElement} home where it is put
   * @param {{label: string, placeholder?: string, onChange?: (facts: any, text: string) => void, onRun?: () => void}} options
   */
  constructor(home, options) {
    this.options = options;
    this.copy = make("pre", { className: "copy", aria: { hidden: "true" } });
    this.area = make("textarea", {
      className: "area", spellcheck: false, autocomplete: "off", rows: 1, placeholder: options.placeholder ?? "",
      aria: { label: options.label, autocomplete: "list", haspopup: "listbox", expanded: "false" }, role: "combobox",
    });
    this.menu = make("ul", { className: "menu", hidden: true, role: "listbox", id: `${home.id}-menu`, aria: { label: "Suggestions" } });
    this.area.setAttribute("aria-controls", this.menu.id);
    this.mistake = make("output", { className: "mistake", hidden: true });
    this.mistake.setAttribute("role", "status");
    home.classList.add("editor");
    home.append(make("div", { className: "layers" }, this.copy, this.area), this.menu, this.mistake);
    this.home = home;
    this.chosen = -1;
    this.typing = false;
    this.suggestions = [];
    this.facts = { tokens: [], kind: "empty", parts: null, mistake: null };
    this.failed = null;
    this._look = oneAtATime((wantsMenu) => this._ask(wantsMenu));
    this._lookSoon = later(60, (wantsMenu) => this._look(wantsMenu));
    this.area.addEventListener("input", () => {
      this.typing = true;
      this._color();
      this._lookSoon(true);
    });
    this.area.addEventListener("keydown", (event) => this._key(event));
    this.area.addEventListener("blur", () => setTimeout(() => this._closeMenu(), 150));
    this.area.addEventListener("scroll", () => { this.copy.scrollTop = this.area.scrollTop; this.copy.scrollLeft = this.area.scrollLeft; });
    this._color();
  }

  get text() {
    return this.area.value;
  }

  /** Replace the text, as a control does. @param {string} text */
  setText(text) {
    if (text !== this.area.value) this.area.value = text;
    this._closeMenu();
    this._color();
    return this._look(false);
  }

  async _ask(wantsMenu) {
    const text = this.text;
    const facts = await post("/api/editor", { text, cursor: wantsMenu ? this.area.selectionStart : null }).catch(() => null);
    if (!facts || text !== this.text) return;
    this.facts = facts;
    this._color();
    this._showMistake();
    this.home.dataset.understood = text;
    if (wantsMenu && this.typing && document.activeElement === this.area) this._openMenu(facts.suggestions);
    this.options.onChange?.(facts, text);
  }

  /** Put the colors of the last answer under the text, as far as they still fit it. */
  _color() {
    const text = this.text;
    const parts = [];
    let at = 0;
    for (const [start, length, kind] of this.facts.tokens ?? []) {
      if (start < at || start + length > text.length) continue;
      if (start > at) parts.push(text.slice(at, start));
      parts.push(make("span", { className: `t-${kind}` }, text.slice(start, start + length)));
      at = start + length;
    }
    parts.push(text.slice(at), "\n");
    const offset = this.facts.mistake?.offset;
    this.copy.replaceChildren(...parts);
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight}px`;
    this.home.dataset.mistake = offset === undefined ? "" : String(offset);
  }

  _showMistake() {
    const mistake = this.facts.mistake ?? (this.failed?.text === this.text ? this.failed.facts : null);
    const says = mistake && this.text.trim() ? mistake.message ?? mistake.error : "";
    this.mistake.hidden = !says;
    this.mistake.replaceChildren(...(says ? [make("span", {}, says), ...(mistake.context ? [make("pre", {}, mistake.context)] : [])] : []));
    this.area.setAttribute("aria-invalid", says ? "true" : "false");
  }

  /** Show a mistake that was found when the statement ran; it stays as long as the text does. @param {any} facts */
  showError(facts) {
    this.failed = { text: this.text, facts };
    this._showMistake();
  }

  // ---- the menu

  _openMenu(suggestions) {
    this.suggestions = suggestions.slice(0, 12);
    this.chosen = this.suggestions.length ? 0 : -1;
    const word = /[\w"'=]$/.test(this.text.slice(0, this.area.selectionStart));
    if (!this.suggestions.length || !word) {
      this._closeMenu();
      this.typing = true;
      return;
    }
    this.menu.replaceChildren(
      ...this.suggestions.map((each, place) =>
        make("li", {
          role: "option", id: `${this.menu.id}-${place}`, className: place ? "" : "chosen", aria: { selected: String(!place) },
          on: { mousedown: (event) => { event.preventDefault(); this._take(place); } },
        }, make("span", {}, each.text), make("small", {}, each.kind)),
      ),
    );
    this.menu.hidden = false;
    this.area.setAttribute("aria-expanded", "true");
    this.area.setAttribute("aria-activedescendant", `${this.menu.id}-0`);
  }

  _closeMenu() {
    this.typing = false;
    this.menu.hidden = true;
    this.chosen = -1;
    this.area.setAttribute("aria-expanded", "false");
    this.area.removeAttribute("aria-activedescendant");
  }

  _choose(place) {
    const items = [...this.menu.children];
    this.chosen = (place + items.length) % items.length;
    items.forEach((item, i) => {
      item.classList.toggle("chosen", i === this.chosen);
      item.setAttribute("aria-selected", String(i === this.chosen));
    });
    items[this.chosen].scrollIntoView({ block: "nearest" });
    this.area.setAttribute("aria-activedescendant", items[this.chosen].id);
  }

  _take(place) {
    const found = this.suggestions[place];
    const at = this.area.selectionStart;
    this.area.setRangeText(found.text, at - found.replaces, at, "end");
    this._closeMenu();
    this._color();
    this._look(false);
  }

  _key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this._closeMenu();
      this.options.onRun?.();
      return;
    }
    if (event.key === " " && event.ctrlKey) {
      event.preventDefault();
      this.typing = true;
      this._look(true);
      return;
    }
    if (this.menu.hidden) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      this._choose(this.chosen + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Tab" || (event.key === "Enter" && !event.shiftKey)) {
      event.preventDefault();
      this._take(this.chosen);
    } else if (event.key === "Escape") {
      event.stopPropagation();
      this._closeMenu();
    }
  }
}
