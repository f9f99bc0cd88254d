// Elements, made without HTML: texts from workflows and vocabularies are data.

const SVG = "http://www.w3.org/2000/svg";
// 16 x 16, drawn with strokes.
const ICONS = {
  undo: "M3 6h7a3.5 3.5 0 0 1 0 7H6M3 6l3-3M3 6l3 3",
  redo: "M13 6H6a3.5 3.5 0 0 0 0 7h4M13 6l-3-3M13 6l-3 3",
  normalise: "M12 4.5V3H4l4.5 5L4 13h8v-1.5",
  reset: "M3 8a5 5 0 1 0 1.5-3.5M3 2v3h3",
  add: "M8 3v10M3 8h10",
  on: "M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8zM8 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4z",
  off: "M2 2l12 12M3.5 5.5C2.200 6.700 1.5 8 1.5 8S4 12.5 8 12.5c1.200 0 2.200-.4 3.100-.9M6.5 3.700A6 6 0 0 1 8 3.5C12 3.5 14.5 8 14.5 8s-.6 1.100-1.700 2.200",
  lock: "M4 7.5h8V13H4zM5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5",
  unlock: "M4 7.5h8V13H4zM5.5 7.5V5a2.5 2.5 0 0 1 4.800-1",
  solo: "M8 2.5l1.600 3.5 3.900.4-2.900 2.600.8 3.800L8 10.900l-3.400 1.900.8-3.800L2.5 6.400l3.900-.4z",
  remove: "M4 4l8 8M12 4l-8 8",
  chart: "M2.5 3.5h9M2.5 8h6M2.5 12.5h3",
  compare: "M8 2v12M2.5 4h3v8h-3zM10.5 4h3v8h-3z",
  copy: "M5.5 5.5h7.5V13H5.5zM3 10.5V3h7.5",
  paste: "M2.5 3.5h11M2.5 7.5h6M2.5 11.5h3.5M8.5 13.5v-2l4-4 2 2-4 4z",
  near: "M8 8m-1.200 0a1.200 1.200 0 1 0 2.400 0a1.200 1.200 0 1 0-2.400 0M8 8m-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0",
};

/** An element; `props` are its properties, "on..." listeners, "aria-..." and "data-..." attributes. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

export function setIcon(button, name) {
  if (button.dataset.icon === name) return;
  button.dataset.icon = name;
  button.replaceChildren(icon(name));
}

/** A button that shows an icon and says `label`. */
export function iconButton(name, label, onclick, props = {}) {
  const button = h("button", { type: "button", title: label, "aria-label": label, onclick, ...props });
  setIcon(button, name);
  return button;
}

/** A button that says `label`. */
export function textButton(label, onclick, props = {}) {
  return h("button", { type: "button", textContent: label, onclick, ...props });
}

// What follows writes only what is new: every write costs style and layout.

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    const text = String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}
