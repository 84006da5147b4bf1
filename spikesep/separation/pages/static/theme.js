// Light or dark colours: those of the system until the button is used. Print is light.
"use strict";

const Theme = {
  system: matchMedia("(prefers-color-scheme: dark)"),
  root: document.documentElement,
  get name() {
    return this.root.dataset.theme ?? (this.system.matches ? "dark" : "light");
  },
  get other() {
    return this.name === "dark" ? "light" : "dark";
  },
  set(name) {
    if (name === "light" || name === "dark") this.root.dataset.theme = name;
    else delete this.root.dataset.theme;
    this.show();
  },
  show() {
    for (const picture of document.querySelectorAll("source[data-dark]")) {
      picture.media = this.name === "dark" ? "all" : "not all";
    }
    const button = document.querySelector("button.theme");
    button.textContent = this.name === "dark" ? "Light colours" : "Dark colours";
    document.dispatchEvent(new Event("theme"));
  },
  begin() {
    let kept = null;
    try {
      kept = localStorage.getItem("theme");
    } catch { /* may be denied to a page on disk */ }
    this.root.classList.add("script");
    document.querySelector("button.theme").addEventListener("click", () => {
      this.set(this.other);
      try {
        localStorage.setItem("theme", this.name);
      } catch { /* not remembered */ }
    });
    this.system.addEventListener("change", () => this.show());
    let onScreen = null;
    addEventListener("beforeprint", () => {
      onScreen = this.root.dataset.theme;
      this.set("light");
    });
    addEventListener("afterprint", () => this.set(onScreen));
    this.set(kept);
  },
};
