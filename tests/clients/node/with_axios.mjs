// axios: asks for each URL and prints what came.
import axios from 'axios';

for (const url of process.argv.slice(2)) {
  const answer = await axios.get(url, { responseType: 'text' });
  console.log('Cache-Status:', answer.headers['cache-status']);
  console.log(answer.data);
}
