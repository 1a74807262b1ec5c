// One cluster.

import { h } from '../dom.js';
import { get, path, remove } from '../api.js';
import { confirm } from '../dialog.js';
import { live } from '../live.js';
import { done } from '../notice.js';
import { badge, button, facts, heading, link, section } from '../parts.js';
import { KINDS, scopeText } from '../scope.js';
import { moment } from '../time.js';

export async function cluster({ parameters, may, signal, show, go }) {
  const place = path`/clusters/${parameters.id}`;
  await live(signal, () => get(place, signal), (found) => {
    const actions = may('operator') && [
      link('Change', `#/clusters/${encodeURIComponent(found.id)}/edit`, 'button primary'),
      button('Delete', () => ask(found, place, go), { kind: 'danger-plain', key: 'delete' }),
    ];
    const within = (page) => `#/clusters/${encodeURIComponent(found.id)}/${page}`;
    show(
      h('p', { class: 'crumbs' }, link('Clusters', '#/clusters')),
      heading(found.name, actions),
      found.description && h('p', { class: 'lead' }, found.description),
      h('ul', { class: 'row tabs' }, h('li', {}, link('Members', within('members'), 'button plain')), h('li', {}, link('Configuration', within('configuration'), 'button plain'))),
      section('About', facts([
        ['Default', found.isDefault ? badge('default', 'good') : 'no'],
        ['Added', moment(found.created)],
        ['Id', h('code', {}, found.id)],
      ])),
      section('Scope', scope(found), h('p', {}, link('Try where a node would belong', '#/placement'))),
    );
  });
}

function scope(found) {
  if (scopeText(found.scope).length === 0) {
    return h('p', { class: 'hint' }, found.isDefault ? 'It has no scope: as the default it gets all nodes that no other cluster is for.' : 'It has no scope, so no node is placed here. Change it to say which nodes it is for.');
  }
  const kinds = KINDS.filter(({ name }) => found.scope[name].length > 0);
  return facts(kinds.map(({ name, label }) => [label, h('ul', { class: 'entries' }, found.scope[name].map((entry) => h('li', {}, h('code', {}, entry))))]));
}

function ask(found, place, go) {
  confirm({
    title: `Delete ${found.name}?`,
    text: 'Its nodes go to the cluster that fits them next, or to the default. This cannot be undone.',
    action: 'Delete the cluster',
    run: async () => {
      await remove(place);
      done(`The cluster ${found.name} is deleted.`);
      go('#/clusters');
    },
  });
}
