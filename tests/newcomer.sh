#!/bin/sh
# From a clean clone to the first cached HTTPS call of a real SDK, by the commands of the README: at most
# three. The SDK is PyGithub, unchanged; its API is a stand-in on this machine, so no account and no network
# is needed. Counts the calls that reach the API, and fails if the second one is not from the store.
#
#   tests/newcomer.sh             builds larder as `cargo install` does, which takes some minutes
#   LARDER=path tests/newcomer.sh uses this program in place of the first command
set -eu
repository="$(cd "$(dirname "$0")/.." && pwd)"
stage="$(mktemp -d)"
api=
trap '[ -z "$api" ] || kill "$api"; rm -rf "$stage"' EXIT
python="${PYTHON:-python3}"
export XDG_CACHE_HOME="$stage/cache" XDG_RUNTIME_DIR="$stage" GITHUB_TOKEN=token-of-nobody
unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy NO_PROXY no_proxy LARDER_ADMIN LARDER_ADMIN_TOKEN

commands=0
# One command that the README tells a newcomer to type.
type() {
    commands=$((commands + 1))
    echo "$commands\$ $*"
    "$@"
}

# The stage: the app, as its author wrote it, and a stand-in for api.github.com with a certificate of its own.
"$python" -c 'import github' 2>/dev/null || {
    "$python" -m venv "$stage/venv"
    python="$stage/venv/bin/python3"
    "$python" -m pip install --quiet --disable-pip-version-check PyGithub
}
mkdir "$stage/app"
cat >"$stage/app/app.py" <<'APP'
import os
from github import Auth, Github

client = Github(auth=Auth.Token(os.environ["GITHUB_TOKEN"]))
print("stars:", client.get_repo("octo/hello").stargazers_count)
APP
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout "$stage/root.key" -out "$stage/root.pem" \
    -subj /CN=stage 2>/dev/null
openssl req -newkey rsa:2048 -nodes -keyout "$stage/key.pem" -out "$stage/api.csr" -subj /CN=api 2>/dev/null
printf 'subjectAltName=DNS:api.github.com\n' >"$stage/api.ext"
openssl x509 -req -in "$stage/api.csr" -CA "$stage/root.pem" -CAkey "$stage/root.key" -days 2 \
    -extfile "$stage/api.ext" -out "$stage/api.pem" 2>/dev/null
cat >"$stage/api.py" <<'API'
import http.server, json, ssl, sys

class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        print(self.command, self.path, flush=True)
        repo = {"id": 1, "name": "hello", "full_name": "octo/hello", "stargazers_count": 42}
        body = json.dumps({**repo, "url": "https://api.github.com/repos/octo/hello"}).encode()
        self.send_response(200)
        for name, value in {
            "Content-Type": "application/json; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "private, max-age=60, s-maxage=60",
            "Vary": "Accept, Authorization, Cookie",
            "ETag": '"1"',
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
API
"$python" "$stage/api.py" "$stage/api.pem" "$stage/key.pem" >"$stage/calls" &
api=$!
while [ ! -s "$stage/calls" ]; do sleep 0.1; done
port="$(head -n 1 "$stage/calls")"

# The commands of the README.
git clone --quiet --local "$repository" "$stage/larder"
if [ -n "${LARDER:-}" ]; then
    commands=1
    echo "1\$ cargo install --path .    (here: $LARDER)"
    mkdir -p "$stage/bin"
    ln -s "$(readlink -f "$LARDER")" "$stage/bin/larder"
else
    cd "$stage/larder"
    type cargo install --quiet --locked --path . --root "$stage"
fi
export PATH="$stage/bin:$PATH"
cd "$stage/app"
type larder init github

# The name leads to the stand-in, and larder trusts its certificate; with the real API neither is needed.
printf '\nresolve: { api.github.com: "127.0.0.1:%s" }\n' "$port" >>proxy.yaml
cat /etc/ssl/certs/ca-certificates.crt "$stage/root.pem" >"$stage/roots.pem" 2>/dev/null || true
export SSL_CERT_FILE="$stage/roots.pem"

type larder exec -- "$python" app.py
calls() { grep -c ^GET "$stage/calls" || true; }
first="$(calls)"
echo "   the same command again:"
larder exec -- "$python" app.py
echo "commands: $commands; calls that reached the API: $first, then $(($(calls) - first))"
[ "$commands" -le 3 ] && [ "$first" -ge 1 ] && [ "$(calls)" = "$first" ]
