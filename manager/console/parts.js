// Pieces that many pages are made of.

import { h, newId } from './dom.js';

/// A page's heading, with what can be done beside it. It takes the focus when the page is opened.
export function heading(text, ...actions) {
  return h('div', { class: 'heading' }, h('h1', { tabindex: '-1' }, text), h('div', { class: 'actions' }, actions));
}

export function button(text, click, { kind = 'plain', key, label } = {}) {
  return h('button', { type: 'button', class: `button ${kind}`, 'data-key': key, 'aria-label': label, on: { click } }, text);
}

export function link(text, href, kind = '') {
  return h('a', { class: kind, href, 'data-key': href }, text);
}

export function badge(text, kind = '') {
  return h('span', { class: `badge ${kind}` }, text);
}

/// Nothing is there yet: says what to do.
export function empty(title, text, action) {
  return h('div', { class: 'empty' }, h('h2', {}, title), h('p', {}, text), action);
}

/// Something went wrong with the whole page or form.
export function failure(text) {
  return h('p', { class: 'failure', role: 'alert' }, text);
}

export function section(title, ...children) {
  const id = newId('section');
  return h('section', { class: 'card', 'aria-labelledby': id }, h('h2', { id }, title), children);
}

/// Rows under headings. On narrow screens each row is a card, and each cell says its heading: the roles keep it a table for
/// screen readers.
export function table(caption, headings, rows) {
  const columns = headings.map((text) => h('th', { scope: 'col', role: 'columnheader' }, text));
  const row = (cells) =>
    h('tr', { role: 'row' }, cells.map((cell, at) => h('td', { role: 'cell', 'data-label': headings[at] }, h('div', {}, cell))));
  return h(
    'table',
    { role: 'table' },
    h('caption', { class: 'unseen' }, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, columns)),
    h('tbody', { role: 'rowgroup' }, rows.map(row)),
  );
}

/// Names and what they are.
export function facts(pairs) {
  return h('dl', { class: 'facts' }, pairs.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}
