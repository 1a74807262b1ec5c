// What people may do.

const ROLES = [
  ['viewer', 'viewer: see clusters'],
  ['operator', 'operator: change clusters as well'],
  ['admin', 'admin: change users as well, and see the audit'],
];

/// Choices of a role, none above `most`.
export function roleChoices(most = 'admin') {
  return ROLES.slice(0, ROLES.findIndex(([role]) => role === most) + 1);
}
