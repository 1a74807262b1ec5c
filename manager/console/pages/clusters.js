// All clusters.

import { h } from '../dom.js';
import { get } from '../api.js';
import { live } from '../live.js';
import { badge, empty, heading, link, table } from '../parts.js';
import { scopeText } from '../scope.js';
import { date } from '../time.js';

export async function clusters({ may, signal, show }) {
  const add = may('operator') && link('Add a cluster', '#/clusters/new', 'button primary');
  await live(signal, () => get('/clusters', signal), (found) => {
    const list = found.length > 0
      ? table('Clusters', ['Name', 'For', 'Added'], found.map(row))
      : empty('No cluster yet', 'A cluster is a set of schedulers, seeds and peers that exchange with each other.', add);
    show(heading('Clusters', add), h('p', { class: 'lead' }, 'A node belongs to the cluster whose scope fits it best, or else to the default.'), h('div', { class: 'card' }, list));
  });
}

function row(cluster) {
  const scope = scopeText(cluster.scope);
  return [
    [
      h('div', { class: 'row' }, link(cluster.name, `#/clusters/${encodeURIComponent(cluster.id)}`, 'strong'), cluster.isDefault && badge('default', 'good')),
      cluster.description && h('p', { class: 'hint' }, cluster.description),
    ],
    scope.length > 0 ? scope.join(', ') : h('span', { class: 'hint' }, cluster.isDefault ? 'all that fit nowhere else' : 'no node yet: give it a scope'),
    date(cluster.created),
  ];
}
