// Windows over the page. The browser keeps the focus in them, ends them by Escape, and gives the focus back.

import { h, newId } from './dom.js';
import { button } from './parts.js';
import { form } from './form.js';

function open(title, content, narrow = false) {
  const id = newId('dialog');
  const dialog = h('dialog', { 'aria-labelledby': id, class: narrow ? 'narrow' : '' }, h('h2', { id }, title), content);
  const before = document.activeElement;
  dialog.addEventListener('close', () => {
    dialog.remove();
    // What opened it may have been drawn anew, or be gone: then the page's heading is where to go on.
    if (document.activeElement !== document.body) return;
    const same = before?.dataset.key && document.querySelector(`[data-key="${CSS.escape(before.dataset.key)}"]`);
    (same || document.querySelector('h1'))?.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/// Asks before something that cannot be undone, and does it if it is wanted. Why it was not done is said in the window.
export function confirm({ title, text, action, run }) {
  let dialog;
  const cancel = button('Cancel', () => dialog.close());
  const submit = async () => {
    await run();
    dialog.close();
  };
  const asked = form({ fields: [], action, submit, others: [cancel], kind: 'danger', label: title });
  dialog = open(title, [h('p', {}, text), asked], true);
  cancel.focus();
}

/// A form in a window, which closes when it was taken. The focus goes to what `run` gives, or back.
export function ask({ title, text, fields, action, run }) {
  let dialog;
  const cancel = button('Cancel', () => dialog.close());
  const submit = async (values) => {
    const next = await run(values);
    dialog.close();
    next?.focus();
  };
  dialog = open(title, [text ? h('p', {}, text) : null, form({ fields, action, submit, others: [cancel], label: title })].filter(Boolean));
  fields[0]?.input.focus();
}
