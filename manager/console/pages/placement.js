// Where a node would belong, and why.

import { h, replace } from '../dom.js';
import { get, query } from '../api.js';
import { field, form } from '../form.js';
import { announce } from '../notice.js';
import { heading, link } from '../parts.js';

export function placement({ signal, show }) {
  const result = h('div', { 'aria-live': 'polite' });
  const fields = [
    field({ name: 'address', label: 'Address', required: true, hint: 'Such as 10.1.2.3 or 2001:db8::7.', autocomplete: 'off' }),
    field({ name: 'hostname', label: 'Host name', autocomplete: 'off' }),
    field({ name: 'idc', label: 'IDC', hint: 'Its data centre.', autocomplete: 'off' }),
    field({ name: 'location', label: 'Location', hint: 'From wide to narrow, such as europe|berlin.', autocomplete: 'off' }),
  ];
  const submit = async (values) => {
    replace(result);
    let found;
    try {
      found = await get(`/placement${query(values)}`, signal);
    } catch (error) {
      if (error.status !== 404) throw error;
      return replace(result, h('div', { class: 'result bad' }, h('h2', {}, 'It belongs nowhere'), h('p', {}, error.message)));
    }
    const text = `because ${found.reason}`;
    replace(result, h('div', { class: 'result good' }, h('h2', {}, 'It belongs to ', link(found.name, `#/clusters/${encodeURIComponent(found.cluster)}`)), h('p', {}, text)));
    announce(`It belongs to ${found.name}, ${text}`);
  };
  show(
    heading('Placement'),
    h('p', { class: 'lead' }, 'Say what a node says of itself, and see which cluster it would belong to, and why. Nothing is changed.'),
    h('div', { class: 'split' }, h('div', { class: 'card sheet' }, form({ fields, action: 'Find its cluster', submit, label: 'A node' })), result),
  );
}
