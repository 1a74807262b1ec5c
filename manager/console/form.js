// Forms: each field has its label, its hint and its error tied to it; what the manager refuses is said at the field.

import { h, newId } from './dom.js';
import { sentence } from './api.js';

/// A field. `options` (pairs of value and text) makes it a choice, `rows` a text of many lines, `type: 'checkbox'` a box.
export function field({ name, label, hint, value = '', required = false, options, rows, type = 'text', ...attributes }) {
  const id = newId(name.replaceAll('.', '-'));
  const error = h('p', { id: `${id}-error`, class: 'error', hidden: true });
  const described = `${hint ? `${id}-hint ` : ''}${id}-error`;
  const shared = { id, name, 'aria-describedby': described, 'aria-required': required ? 'true' : null, ...attributes };
  const input = control(shared, { value, options, rows, type });
  const text = h('label', { for: id }, label, required ? null : type === 'checkbox' || options ? null : h('span', { class: 'optional' }, ' (optional)'));
  const note = hint ? h('p', { id: `${id}-hint`, class: 'hint' }, hint) : null;
  const element = type === 'checkbox' ? h('div', { class: 'field box' }, input, text, note, error) : h('div', { class: 'field' }, text, note, input, error);
  return {
    name,
    element,
    input,
    value: () => (type === 'checkbox' ? input.checked : input.value),
    missing: () => (required && !input.value ? `Fill in: ${label}` : ''),
    fail(what) {
      error.textContent = what;
      error.hidden = !what;
      if (what) input.setAttribute('aria-invalid', 'true');
      else input.removeAttribute('aria-invalid');
    },
  };
}

function control(attributes, { value, options, rows, type }) {
  if (options) {
    const choice = (pair) => h('option', { value: pair[0], selected: pair[0] === value }, pair[1]);
    return h('select', attributes, options.map(choice));
  }
  if (rows) {
    const input = h('textarea', { rows, spellcheck: 'false', ...attributes });
    input.value = value;
    return input;
  }
  if (type === 'checkbox') return h('input', { type, checked: Boolean(value), ...attributes });
  return h('input', { type, value, spellcheck: 'false', autocapitalize: 'off', ...attributes });
}

/// A form that sends once at a time. `submit` gets the values by name; what it throws is shown, at the fields that it names
/// (`scope.cidrs[0]` is of the field `scope.cidrs`), or above them all.
export function form({ fields, action, submit, others = [], label, kind = 'primary' }) {
  const failed = h('p', { class: 'failure', role: 'alert', hidden: true });
  const send = h('button', { type: 'submit', class: `button ${kind}` }, action);
  const element = h('form', { novalidate: true, 'aria-label': label }, failed, fields.map((one) => one.element), h('div', { class: 'actions' }, send, others));
  let busy = false;
  element.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (busy) return;
    const missing = fields.filter((one) => (one.fail(one.missing()), one.missing()));
    failed.hidden = true;
    if (missing.length > 0) return missing[0].input.focus();
    busy = true;
    send.setAttribute('aria-disabled', 'true');
    try {
      await submit(Object.fromEntries(fields.map((one) => [one.name, one.value()])));
    } catch (error) {
      tell(fields, failed, error);
    } finally {
      busy = false;
      send.removeAttribute('aria-disabled');
    }
  });
  return element;
}

function tell(fields, failed, error) {
  const left = [];
  let first;
  for (const { field: place, message } of error.errors ?? []) {
    const found = fields.find((one) => place === one.name || place.startsWith(`${one.name}[`));
    if (!found) {
      left.push(`${place}: ${message}`);
      continue;
    }
    const entry = place.match(/\[(\d+)\]$/)?.[1];
    const written = entry === undefined ? undefined : lines(found.value())[Number(entry)];
    found.fail(written === undefined ? sentence(message) : `${written}: ${message}`);
    first ??= found;
  }
  if (left.length > 0 || !first) {
    failed.textContent = left.join('; ') || error.message;
    failed.hidden = false;
  }
  first?.input.focus();
}

/// The lines of a text that have something in them.
export function lines(text) {
  return text.split('\n').map((line) => line.trim()).filter(Boolean);
}
