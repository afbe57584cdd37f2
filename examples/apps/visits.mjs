// An app that knows nothing of larder: each visit of a user checks four roles, then lists them all.
//
// Node's own fetch, as it is: `visits.mjs https://api USERS VISITS`.

const [api, users, visits] = process.argv.slice(2);

async function ask(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`);
  return answer.json();
}

/** The roles of a user by name; each check asks, as apps do. */
async function visit(user) {
  const guild = `${api}/api/v10/guilds/1`;
  const checks = [];
  for (let check = 0; check < 4; check += 1) {
    checks.push(await ask(`${guild}/members/${user}`));
  }
  const roles = await ask(`${guild}/roles`);
  return roles.filter((role) => checks[0].roles.includes(role.id)).map((role) => role.name);
}

for (let turn = 0; turn < Number(visits); turn += 1) {
  for (let user = 1; user <= Number(users); user += 1) await visit(user);
}
