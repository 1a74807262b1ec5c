// Tokens with which schedulers and nodes join that show no certificate.

import { h, replace } from '../dom.js';
import { get, path, post, remove } from '../api.js';
import { ask, confirm } from '../dialog.js';
import { field } from '../form.js';
import { live } from '../live.js';
import { done } from '../notice.js';
import { badge, button, empty, heading, link, table } from '../parts.js';
import { reveal } from '../secret.js';
import { date, relative } from '../time.js';

const ANY = 'any, by placement';

export async function joinTokens({ signal, show }) {
  const made = h('div', {});
  const list = h('div', { class: 'card' });
  const again = { now: () => {} };
  const open = async () => make(await get('/clusters', signal), made, again);
  const add = button('Make a join token', open, { kind: 'primary', key: 'make' });
  show(heading('Join tokens', add), h('p', { class: 'lead' }, 'Schedulers and nodes join with a token in a file that their configuration names as manager.joinTokenFile, or with a certificate.'), made, list);
  const load = async () => ({ found: await get('/join-tokens', signal), clusters: await get('/clusters', signal) });
  again.now = await live(signal, load, ({ found, clusters }) => {
    const none = empty('No join token yet', 'Make one for each set of machines, so that it can be removed without the others.');
    const rows = () => found.map((token) => row(token, clusters, again));
    replace(list, found.length > 0 ? table('Join tokens', ['Name', 'Members of', 'Made', 'Ends', 'Actions'], rows()) : none);
  });
}

function row(token, clusters, again) {
  const cluster = clusters.find((one) => one.id === token.cluster);
  return [
    h('strong', {}, token.name),
    cluster ? link(cluster.name, `#/clusters/${encodeURIComponent(cluster.id)}`) : ANY,
    date(token.created),
    ends(token.expires),
    button('Remove', () => removal(token, again), { kind: 'danger-plain', key: `remove-${token.id}`, label: `Remove ${token.name}` }),
  ];
}

function ends(expires) {
  if (expires === null) return 'never';
  return expires <= Date.now() ? badge('ended', 'bad') : [date(expires), h('span', { class: 'hint' }, ` ${relative(expires)}`)];
}

function removal(token, again) {
  confirm({
    title: `Remove ${token.name}?`,
    text: 'Members that joined with it lose their stream and go on with what they know. They join again with another token.',
    action: 'Remove the join token',
    run: async () => {
      await remove(path`/join-tokens/${token.id}`);
      done(`The join token ${token.name} is removed.`);
      again.now();
    },
  });
}

function make(clusters, host, again) {
  ask({
    title: 'Make a join token',
    fields: [
      field({ name: 'name', label: 'Name', required: true, hint: 'Which machines it is for, such as berlin-nodes.', autocomplete: 'off' }),
      field({ name: 'cluster', label: 'Makes members of', options: [['', ANY], ...clusters.map(({ id, name }) => [id, name])], hint: 'A cluster here goes before placement.' }),
      field({ name: 'lifetime', label: 'Good for how many days', type: 'number', min: 1, inputmode: 'numeric', hint: 'Empty: for as long as it is not removed.' }),
    ],
    action: 'Make the join token',
    run: async ({ name, cluster, lifetime }) => {
      const asked = { name, cluster: cluster || null, lifetime: lifetime === '' ? null : `${Number(lifetime) * 24}h` };
      const made = await post('/join-tokens', asked);
      again.now();
      return reveal(host, `The join token ${made.name}`, made.secret, 'Write it into a file that only the service may read (mode 0600).');
    },
  });
}
