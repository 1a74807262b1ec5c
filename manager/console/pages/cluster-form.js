// Adds a cluster, or changes one.

import { h } from '../dom.js';
import { get, path, post, put } from '../api.js';
import { field, form, lines } from '../form.js';
import { done } from '../notice.js';
import { heading, link } from '../parts.js';
import { KINDS } from '../scope.js';

export async function clusterForm({ parameters, signal, show, go }) {
  const before = parameters.id ? await get(path`/clusters/${parameters.id}`, signal) : undefined;
  const fields = [
    field({ name: 'name', label: 'Name', required: true, value: before?.name, hint: '1 to 64 letters, digits and the characters . _ @ -', autocomplete: 'off' }),
    field({ name: 'description', label: 'Description', value: before?.description, hint: 'What it is, for those who come after you.', autocomplete: 'off' }),
    ...KINDS.map(({ name, label, hint }) => field({ name: `scope.${name}`, label, hint, rows: 3, value: before?.scope[name].join('\n') ?? '' })),
    field({ name: 'isDefault', label: 'The default: nodes that fit nowhere else belong to it', type: 'checkbox', value: before?.isDefault, hint: before?.isDefault ? 'To change this, make another cluster the default.' : 'The cluster that is the default now will be so no longer.', disabled: before?.isDefault }),
  ];
  const submit = async (values) => {
    const body = {
      name: values.name,
      description: values.description,
      isDefault: values.isDefault,
      scope: Object.fromEntries(KINDS.map(({ name }) => [name, lines(values[`scope.${name}`])])),
    };
    const made = before ? await put(path`/clusters/${before.id}`, body) : await post('/clusters', body);
    done(before ? `The cluster ${made.name} is changed.` : `The cluster ${made.name} is added.`);
    go(`#/clusters/${encodeURIComponent(made.id)}`);
  };
  const title = before ? `Change ${before.name}` : 'Add a cluster';
  const back = before ? `#/clusters/${encodeURIComponent(before.id)}` : '#/clusters';
  const sheet = form({ fields, action: before ? 'Save' : 'Add the cluster', submit, others: [link('Cancel', back, 'button plain')], label: title });
  show(
    h('p', { class: 'crumbs' }, link('Clusters', '#/clusters')),
    heading(title),
    h('p', { class: 'lead' }, 'What says more goes first: a network, then a host name, an idc, a location. Of one kind the longest fit wins.'),
    h('div', { class: 'card sheet' }, sheet),
  );
}
