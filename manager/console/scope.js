// Which nodes a cluster is for, in words.

/// The kinds of entries, in the order in which the manager looks at them.
export const KINDS = [
  { name: 'cidrs', one: 'network', many: 'networks', label: 'Networks', hint: 'One a line, such as 10.1.0.0/16 or 2001:db8::/32.' },
  { name: 'hostnames', one: 'host name pattern', many: 'host name patterns', label: 'Host names', hint: 'One regular expression a line. It must fit the whole name: gpu-.* fits gpu-1.' },
  { name: 'idcs', one: 'idc', many: 'idcs', label: 'IDCs', hint: 'Data centres, as nodes name them: one a line.' },
  { name: 'locations', one: 'location', many: 'locations', label: 'Locations', hint: 'One a line, from wide to narrow, such as europe|berlin. It is for all places within.' },
];

/// `2 networks`, `1 idc`: one text for each kind that has entries.
export function scopeText(scope) {
  return KINDS.flatMap(({ name, one, many }) => {
    const count = scope[name].length;
    return count === 0 ? [] : [`${count} ${count === 1 ? one : many}`];
  });
}
