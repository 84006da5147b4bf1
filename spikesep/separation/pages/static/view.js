// The part of a recording that all lanes of a player show: zoom and scrolling by buttons, keys,
// wheel, fingers and the overview; the time axis; the line at the position.
"use strict";

const CLOSEST = 0.05; // seconds shown at the largest zoom
const NOTCH = 100; // pixels of the wheel that double the zoom
const LINE = 16, PAGE = 400; // pixels for wheels that count lines or pages

class View {
  // root: the player. duration: in seconds. seek: called with the seconds pointed at. changed:
  // called when another part is shown. signal: ends all listening.
  constructor(root, duration, { seek, changed }, signal) {
    this.root = root;
    this.duration = duration;
    this.seek = seek;
    this.changed = changed;
    this.zoom = 1;
    this.left = 0; // seconds: start of the part shown
    this.position = 0; // seconds
    this.follows = true; // whether the part moves on with the position
    this.fingers = new Map(); // horizontal position of each finger on the lanes
    this.pinch = null; // zoom and distance of two fingers when they came down
    this.lanes = root.querySelector(".view");
    this.overview = root.querySelector(".overview");
    this.#listen(signal);
  }

  #listen(signal) {
    const on = (target, type, act) => target.addEventListener(type, act, { signal, passive: false });
    on(this.root.querySelector(".closer"), "click", () => this.zoomBy(2));
    on(this.root.querySelector(".wider"), "click", () => this.zoomBy(1 / 2));
    on(this.root.querySelector(".whole"), "click", () => this.zoomBy(0));
    for (const target of [this.lanes, this.overview]) {
      on(target, "wheel", (event) => this.#wheel(event));
    }
    on(this.lanes, "pointerdown", (event) => this.#down(event));
    on(this.lanes, "pointermove", (event) => this.#move(event));
    for (const type of ["pointerup", "pointercancel"]) {
      on(this.lanes, type, (event) => this.#up(event));
    }
    on(this.overview, "pointerdown", (event) => this.#grab(event));
    on(this.overview, "pointermove", (event) => event.buttons && this.#drag(event));
    on(this.overview, "keydown", (event) => this.#key(event));
  }

  // Seconds shown.
  get span() {
    return this.duration / this.zoom;
  }

  shows(seconds) {
    return seconds >= this.left && seconds <= this.left + this.span;
  }

  // Zoom around a time, which stays in place: by default the position, if it is shown, else the
  // middle. A factor of 0 shows everything.
  zoomBy(factor, at = this.shows(this.position) ? this.position : this.left + this.span / 2) {
    const share = (at - this.left) / this.span;
    const most = Math.max(1, this.duration / CLOSEST);
    this.zoom = Math.min(most, Math.max(1, this.zoom * factor));
    this.root.querySelector(".zoomed").textContent = `${+this.zoom.toFixed(1)}×`;
    this.scrollTo(at - share * this.span);
  }

  // Show the part from `seconds` on, or as close as the length of the recording allows. Unless it
  // contains the position, it does not follow until it does.
  scrollTo(seconds) {
    this.#look(seconds);
    this.follows = this.shows(this.position);
  }

  scrollBy(seconds) {
    this.scrollTo(this.left + seconds);
  }

  // Show the position. After a jump, it is in the part shown; otherwise it is if the view follows.
  moved(position, jumped) {
    this.position = position;
    this.follows ||= jumped || this.shows(position);
    if (this.follows && !this.shows(position)) this.#look(position - 0.05 * this.span);
    else this.#place();
  }

  #look(seconds) {
    this.left = Math.max(0, Math.min(this.duration - this.span, seconds));
    const { style } = this.root, share = (time) => `${(100 * time) / this.duration}%`;
    style.setProperty("--zoom", this.zoom);
    style.setProperty("--left", `-${share(this.left)}`);
    style.setProperty("--from", share(this.left));
    style.setProperty("--shown", share(this.span));
    drawTicks(this.lanes.querySelector(".axis"), this.left, this.span);
    const [from, to, all] = [this.left, this.left + this.span, this.duration].map((time) => time.toFixed(1));
    this.overview.setAttribute("aria-valuemax", (this.duration - this.span).toFixed(2));
    this.overview.setAttribute("aria-valuenow", this.left.toFixed(2));
    this.overview.setAttribute("aria-valuetext", `${from} to ${to} of ${all} seconds`);
    this.#place();
    this.changed();
  }

  #place() {
    const { style } = this.root, place = this.position - this.left;
    style.setProperty("--at", `${(100 * place) / this.span}%`);
    style.setProperty("--of", `${(100 * this.position) / this.duration}%`);
    this.lanes.querySelector(".cursor").hidden = !this.shows(this.position);
  }

  // The time at a horizontal position on the screen.
  timeAt(x, box = this.lanes.getBoundingClientRect()) {
    return this.left + Math.max(0, Math.min(1, (x - box.left) / box.width)) * this.span;
  }

  #wheel(event) {
    const unit = [1, LINE, PAGE][event.deltaMode];
    const down = unit * event.deltaY, across = unit * (event.deltaX || (event.shiftKey && event.deltaY));
    if (event.ctrlKey || event.metaKey) this.zoomBy(2 ** (-down / NOTCH), this.timeAt(event.clientX));
    else if (this.zoom > 1 && (event.shiftKey || Math.abs(across) > Math.abs(down))) {
      this.scrollBy((across / this.lanes.clientWidth) * this.span);
    } else return; // the page scrolls
    event.preventDefault();
  }

  // A mouse seeks at once. A finger seeks where it moves sideways or is lifted, unless the page
  // scrolls with it; two fingers zoom.
  #down(event) {
    if (event.button) return;
    this.lanes.setPointerCapture(event.pointerId);
    if (event.pointerType !== "touch") return this.seek(this.timeAt(event.clientX));
    this.fingers.set(event.pointerId, event.clientX);
    if (this.fingers.size === 2) this.pinch = { zoom: this.zoom, apart: this.#apart };
  }

  #move(event) {
    if (event.pointerType !== "touch") {
      if (event.buttons & 1) this.seek(this.timeAt(event.clientX));
    } else if (this.fingers.has(event.pointerId)) {
      const middle = this.#middle, held = this.timeAt(middle);
      this.fingers.set(event.pointerId, event.clientX);
      if (this.fingers.size === 2) {
        this.zoomBy((this.pinch.zoom * this.#apart) / this.pinch.apart / this.zoom, held);
        this.scrollBy(held - this.timeAt(this.#middle));
      } else if (!this.pinch) this.seek(this.timeAt(event.clientX));
    }
  }

  #up(event) {
    if (!this.fingers.delete(event.pointerId)) return;
    if (event.type === "pointerup" && !this.pinch) this.seek(this.timeAt(event.clientX));
    if (!this.fingers.size) this.pinch = null;
  }

  get #apart() {
    const [one, two] = this.fingers.values();
    return Math.max(10, Math.abs(one - two));
  }

  get #middle() {
    const places = [...this.fingers.values()];
    return places.reduce((sum, x) => sum + x, 0) / places.length;
  }

  // Drag the part shown along the overview; beside it, it jumps there first.
  #grab(event) {
    if (event.button) return;
    this.overview.setPointerCapture(event.pointerId);
    const time = this.#pointed(event);
    if (!this.shows(time)) this.scrollTo(time - this.span / 2);
    this.held = time - this.left;
  }

  #drag(event) {
    this.scrollTo(this.#pointed(event) - this.held);
  }

  #pointed(event) {
    const box = this.overview.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * this.duration;
  }

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const steps = {
      ArrowLeft: -0.1, ArrowDown: -0.1, ArrowRight: 0.1, ArrowUp: 0.1, PageUp: 1, PageDown: -1,
      Home: -Infinity, End: Infinity,
    };
    if (!(event.key in steps)) return;
    this.scrollBy(steps[event.key] * this.span);
    event.preventDefault();
  }
}

// Draw time ticks, for `span` seconds from `left` on.
function drawTicks(axis, left, span) {
  const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300];
  const step = steps.find((seconds) => span / seconds <= 9) ?? 600;
  axis.replaceChildren();
  const first = Math.ceil(left / step - 1e-6);
  for (let k = first; k * step < left + span - 0.3 * step; k++) {
    const tick = axis.appendChild(document.createElement("span")), second = k * step;
    const exact = clock(second), text = step < 1 ? exact : exact.slice(0, -2);
    tick.textContent = second < 60 ? `${+second.toFixed(2)}${k === first ? " s" : ""}` : text;
    tick.style.left = `${(100 * (second - left)) / span}%`;
  }
}
