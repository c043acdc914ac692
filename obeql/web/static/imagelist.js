// The images of the database, and the way in for those that are not there yet.

import { get } from "./api.js";
import { byId, later, make } from "./dom.js";

export class ImageList {
  /** @param {{choose: (image: any) => void, take: (file: File) => void}} calls */
  constructor(calls) {
    this.calls = calls;
    this.home = byId("images");
    this.chosen = null;
    byId("file-input").addEventListener("change", (event) => {
      const [file] = event.target.files;
      if (file) calls.take(file);
      event.target.value = "";
    });
    const drop = byId("drop");
    for (const where of [drop, byId("map").parentElement]) {
      where.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
      where.addEventListener("dragleave", () => drop.classList.remove("over"));
      where.addEventListener("drop", (event) => {
        event.preventDefault();
        drop.classList.remove("over");
        const [file] = event.dataTransfer?.files ?? [];
        if (file) calls.take(file);
      });
    }
    byId("set").addEventListener("change", () => this.list());
    byId("image-words").addEventListener("input", later(200, () => this.list()));
  }

  /** Name the image sets to choose from. @param {any[]} sets */
  sets(sets) {
    const chosen = byId("set").value;
    byId("set").replaceChildren(
      make("option", { value: "" }, "all images"),
      ...sets.filter((each) => each.n_images > 1).map((each) => make("option", { value: each.name }, `${each.name} (${each.n_images})`)),
    );
    byId("set").value = chosen;
  }

  /** Ask for the images anew. */
  async list() {
    const found = await get("/api/images", { set: byId("set").value || null, words: byId("image-words").value || null, most: 60 }).catch(() => null);
    if (!found) return;
    this.home.replaceChildren(...found.images.map((each) => make("li", {}, this._button(each))));
    if (found.total > found.images.length) this.home.append(make("li", { className: "more" }, `${found.images.length} of ${found.total}`));
    this.home.dataset.state = "done";
  }

  _button(image) {
    const facts = {
      type: "button", title: `${image.name}${image.label ? ` · ${image.label}` : ""}`, data: { image: image.image_id },
      aria: { label: image.name, pressed: String(this.chosen === image.image_id) }, on: { click: () => this.calls.choose(image) },
    };
    const picture = make("img", { loading: "lazy", alt: "", width: 64, height: 64, src: `/api/images/${image.image_id}/picture?size=128` });
    return make("button", facts, picture, make("span", {}, image.name));
  }

  /** Mark the image that is chosen. @param {number|null} imageId */
  mark(imageId) {
    this.chosen = imageId;
    for (const button of this.home.querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.image) === imageId));
  }
}
