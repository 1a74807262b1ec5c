// Who is in a cluster, how they are, and which configuration they run.

import { h } from '../dom.js';
import { get, path, query } from '../api.js';
import { live } from '../live.js';
import { announce } from '../notice.js';
import { badge, button, empty, heading, link, table } from '../parts.js';
import { relative } from '../time.js';

/// Members that are loaded at a time.
const PAGE = 200;

export async function members({ parameters, may, signal, show }) {
  const place = path`/clusters/${parameters.id}`;
  let pages = 1;
  const load = async () => {
    const cluster = await get(place, signal);
    const found = [];
    let ended = false;
    for (let at = 0; at < pages && !ended; at += 1) {
      const more = await get(`${place}/members${query({ limit: PAGE, after: found.at(-1)?.id })}`, signal);
      found.push(...more);
      ended = more.length < PAGE;
    }
    return { cluster, found, ended };
  };
  const again = await live(signal, load, ({ cluster, found, ended }) => {
    const next = async () => {
      pages += 1;
      await again();
      announce('More members are shown.');
    };
    const none = empty('Nobody has joined yet', 'Schedulers and nodes join when their configuration names this manager and a join token.', may('operator') && link('Make a join token', '#/join-tokens', 'button plain'));
    show(
      h('p', { class: 'crumbs' }, link(cluster.name, `#/clusters/${encodeURIComponent(cluster.id)}`)),
      heading(`Members of ${cluster.name}`),
      found.length > 0 && h('p', { class: 'lead' }, summary(found, ended)),
      h('div', { class: 'card' }, found.length > 0 ? table('Members', ['Member', 'Role', 'State', 'Configuration', 'Seen'], found.map(row)) : none, !ended && h('div', { class: 'actions' }, button('Show more members', next, { key: 'more' }))),
    );
  });
}

/// `3 members: 1 scheduler, 2 peers; 1 is silent`
function summary(found, ended) {
  const counts = ['scheduler', 'seed', 'peer'].flatMap((role) => {
    const count = found.filter((member) => member.role === role).length;
    return count ? [`${count} ${role}${count === 1 ? '' : 's'}`] : [];
  });
  const silent = found.filter((member) => !member.healthy).length;
  return `${ended ? '' : 'The first '}${found.length} ${found.length === 1 ? 'member' : 'members'}: ${counts.join(', ')}; ${silent === 0 ? 'all are heard of' : `${silent} silent, and not handed out`}.`;
}

function row(member) {
  const { version, isNewest, refused } = member.configuration;
  return [
    [h('strong', {}, member.host), h('p', { class: 'hint' }, h('code', {}, member.address)), h('p', { class: 'hint' }, `here because ${member.reason}`)],
    badge(member.role),
    member.healthy ? badge(member.state, member.state === 'serving' ? 'good' : '') : badge('silent', 'bad'),
    [
      version === 0 ? 'its own file' : `version ${version}`,
      !isNewest && !refused && h('p', { class: 'hint' }, 'not the newest yet'),
      refused && h('p', { class: 'bad-text' }, `refused version ${refused.version}: ${refused.reason}`),
    ],
    relative(member.seen),
  ];
}
