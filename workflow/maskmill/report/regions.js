"use strict";
// Regions of one image in its large view: chosen by a click or a key, given another class. Only recipes with a cut have them.
(() => {
  const { make, unpacked } = maskmill;
  const SIDE = 420; // pixels of the longer side of the outline
  const RIM = [255, 255, 255, 255], EDGE = [10, 12, 16, 255], OUTSIDE = [10, 12, 16, 120], CLEAR = [0, 0, 0, 0];
  const at = { desk: null, image: "", region: 0 };

  /** {height, width, values}: the region of every cell of an image, 0 for none; undefined where the page has none. */
  function partsOf(desk, image) {
    desk.parts = desk.parts || new Map();
    if (!desk.parts.has(image) && Object.hasOwn(desk.data.parts || {}, image)) desk.parts.set(image, unpacked(desk.data.parts[image]));
    return desk.parts.get(image);
  }

  /** Numbers of the regions of an image, ascending. */
  const regionsOf = (desk, image) => {
    const parts = desk && partsOf(desk, image);
    return parts ? [...new Set(parts.values)].filter(Boolean).sort((a, b) => a - b) : [];
  };

  /** The region below a place, x and y in 0..1; 0 for none. */
  function regionAt(desk, image, x, y) {
    const parts = desk && partsOf(desk, image);
    if (!parts) return 0;
    const place = (share, size) => Math.min(size - 1, Math.max(0, Math.floor(share * size)));
    return parts.values[place(y, parts.height) * parts.width + place(x, parts.width)];
  }

  /** What a region is called now. */
  function calledIn(desk, image, region) {
    const parts = partsOf(desk, image), map = maskmill.mapOf(desk, image);
    return maskmill.ownerIn(desk, image)(map.values[parts.values.indexOf(region)], region) || "no name";
  }

  const ruleOf = (desk, image, region) => desk.naming.doc.corrections.findIndex((row) => row.image === image && row.region === region);

  /** Draws the outline of the chosen region over the large view, or nothing. */
  function draw() {
    const frame = document.querySelector("#box-frame"), old = frame.querySelector(".pick");
    if (old) old.remove();
    const parts = at.region && partsOf(at.desk, at.image);
    if (!parts) return;
    const zoom = Math.max(3, Math.round(SIDE / Math.max(parts.width, parts.height)));
    const width = parts.width * zoom, height = parts.height * zoom, data = new ImageData(width, height);
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height
      && parts.values[Math.floor(y / zoom) * parts.width + Math.floor(x / zoom)] === at.region;
    const near = (x, y, d) => inside(x - d, y) && inside(x + d, y) && inside(x, y - d) && inside(x, y + d);
    for (let i = 0; i < width * height; i += 1) {
      const x = i % width, y = Math.floor(i / width);
      const colour = !inside(x, y) ? OUTSIDE : !near(x, y, 2) ? RIM : !near(x, y, 3) ? EDGE : CLEAR;
      data.data.set(colour, 4 * i);
    }
    const canvas = make("canvas");
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").putImageData(data, 0, 0);
    frame.append(make("span", { class: "pick", "aria-hidden": "true" }, canvas));
  }

  /** The large view shows this image of a recipe; a region stays chosen as long as it is the same image. */
  function shown(desk, image) {
    if (at.desk !== desk || at.image !== image) Object.assign(at, { desk, image, region: 0 });
    draw();
  }

  /** Chooses a region, 0: none. */
  function pick(region) {
    at.region = region;
    maskmill.correctable();
    draw();
  }

  /** Chooses the region that was clicked; the chosen one is let go. False where there is none. */
  function clicked(event) {
    const area = document.querySelector("#box-frame").getBoundingClientRect();
    const region = regionAt(at.desk, at.image, (event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
    if (!region) return false;
    pick(region === at.region ? 0 : region);
    return true;
  }

  /** Gives the chosen region a class; "" takes back what was said of it. */
  function give(name) {
    const { desk, image, region } = at;
    if (!region) return;
    const index = ruleOf(desk, image, region);
    if (name && calledIn(desk, image, region) !== name) desk.naming.correct({ image, region, class: name });
    else if (!name && index >= 0) desk.naming.forget(index);
    if (name) desk.last = name;
  }

  function step(by) {
    const regions = regionsOf(at.desk, at.image), place = regions.indexOf(at.region);
    if (regions.length) pick(regions[place < 0 ? (by > 0 ? 0 : regions.length - 1) : (place + by + regions.length) % regions.length]);
  }

  const KEYS = {
    j: () => step(1), k: () => step(-1), b: () => give("background"), i: () => give("ignore"), x: () => give(""),
    ".": () => at.desk.last && give(at.desk.last), u: () => at.desk.travel("undo"), r: () => at.desk.travel("redo"),
    n: () => at.region && document.querySelector("#box-correct input").focus(),
  };
  KEYS.Enter = KEYS.n;
  const WITH_CONTROL = { z: "undo", y: "redo", Z: "redo" };

  /** Obeys a key of the large view; false where it means nothing here. */
  function key(event) {
    if (!at.desk || event.altKey) return false;
    if (event.ctrlKey || event.metaKey) {
      const way = WITH_CONTROL[event.shiftKey ? event.key.toUpperCase() : event.key];
      if (way) at.desk.travel(way);
      return Boolean(way);
    }
    if (!regionsOf(at.desk, at.image).length || (event.key === "Enter" && (event.target.tagName === "BUTTON" || !at.region))) return false;
    const name = /^[1-9]$/.test(event.key) && at.desk.naming.names()[event.key - 1];
    if (name) give(name);
    else if (Object.hasOwn(KEYS, event.key)) KEYS[event.key]();
    else return false;
    return true;
  }

  const chosen = () => at.region;
  Object.assign(maskmill, { regions: { partsOf, regionsOf, calledIn, shown, pick, clicked, give, key, chosen } });
})();
