// Makes elements. What must hold: text stays text. Nothing here, and nothing elsewhere, turns a string into markup: the
// page's policy forbids it as well.

const SVG = 'http://www.w3.org/2000/svg';

/// An element with its attributes and children. `on` has its listeners; `true` is an attribute without a value; what is
/// `null`, `undefined` or `false` is left out.
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/// The same for drawings.
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (/^on/i.test(name)) throw new Error(`${name}: listeners go into "on"`);
    if (name === 'href' && !/^(#|\/(?!\/))/.test(value)) throw new Error(`${value} leads away from the console`);
    element.setAttribute(name, value === true ? '' : String(value));
  }
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/// Puts other children into a host. Whoever had the focus in it has it still, if there is an element with the same `data-key`.
export function replace(host, ...children) {
  const focused = host.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  host.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (focused) host.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

let last = 0;

/// A new id, to tie a label to what it labels.
export function newId(prefix) {
  last += 1;
  return `${prefix}-${last}`;
}
