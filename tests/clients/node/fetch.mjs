// Node's own fetch: asks for each URL and prints what came.
for (const url of process.argv.slice(2)) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`);
  console.log('Cache-Status:', answer.headers.get('cache-status'));
  console.log(await answer.text());
}
