//! Who may use larder: client addresses, users of this host, and proxy users.
//!
//! Owns: `access`. Never touches: where requests go (`upstream::destination`).

use std::net::{IpAddr, SocketAddr};

use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};

use crate::config::Access;
use crate::frontend::socket_owner::owner;
use crate::frontend::stream::ClientStream;
use crate::telemetry::problem::Problem;

/// The client's address is not in `access.clients`.
pub const CLIENT_DENIED: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "client_denied",
    "this client's address is not in access.clients",
    "http_request_denied",
);

/// The request carries no user of `access.users_file`.
pub const USER_REQUIRED: Problem = Problem::new(
    StatusCode::PROXY_AUTHENTICATION_REQUIRED,
    "user_required",
    "Proxy-Authorization with a user of access.users_file is needed, or below `larder exec` with the one \
     that http_proxy names",
    "http_request_denied",
);

/// The connection is not of a user for whom this larder was started.
pub const FOREIGN_USER: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "foreign_user",
    "this larder serves the user who started `larder exec` and root; this connection is another user's, \
     or closed: run `larder exec` as the user whose command it is, or `larder run` for all users",
    "http_request_denied",
);

/// The access rules, ready to be asked.
pub struct AccessControl {
    access: Access,
    /// Digests of `user:password`, so that comparing takes the same time for every guess.
    users: Option<Vec<[u8; 32]>>,
}

impl AccessControl {
    /// The rules of `access`.
    pub fn new(access: Access) -> Self {
        let users = access.users.as_ref().map(|users| {
            users
                .0
                .iter()
                .map(|(user, password)| digest(format!("{user}:{password}").as_bytes()))
                .collect()
        });
        Self { access, users }
    }

    /// Whether a client at `peer` may connect.
    pub fn admits(&self, peer: SocketAddr) -> bool {
        let ip: IpAddr = peer.ip().to_canonical();
        self.access.clients.is_empty() || self.access.clients.iter().any(|net| net.contains(&ip))
    }

    /// Whether the connection is that of a user of this host whom larder serves. The system is asked once a
    /// connection, and only where not all users are served.
    pub(super) async fn serves(&self, io: &ClientStream) -> bool {
        let Some(users) = &self.access.local_users else { return true };
        let Some(ours) = io.local() else { return false };
        // A user whom the system does not tell is a stranger.
        owner(ours, io.peer()).await.is_some_and(|user| users.contains(&user))
    }

    /// Whether a request with these fields comes from a known user.
    pub fn knows(&self, fields: &HeaderMap) -> bool {
        let Some(users) = &self.users else { return true };
        let Some(given) = fields.get(PROXY_AUTHORIZATION).and_then(|v| basic(v.as_bytes())) else {
            return false;
        };
        let given = digest(&given);
        // Every user is compared, so that the time taken tells nothing.
        users.iter().filter(|user| **user == given).count() > 0
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The `user:password` of a Basic credential (RFC 7617).
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    base64::engine::general_purpose::STANDARD.decode(rest.trim_ascii()).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;

    use super::*;
    use crate::config::Users;
    use crate::upstream::in_flight_bytes::InFlightBytes;

    fn gatekeeper(clients: &[&str], users: Option<&[(&str, &str)]>) -> AccessControl {
        let users = users.map(|users| {
            Users(
                users.iter().map(|(u, p)| ((*u).to_owned(), (*p).to_owned())).collect::<Arc<[_]>>(),
            )
        });
        AccessControl::new(Access {
            clients: clients.iter().map(|c| c.parse().unwrap()).collect(),
            users,
            local_users: None,
        })
    }

    #[test]
    fn clients_outside_the_list_are_not_admitted() {
        let some = gatekeeper(&["10.0.0.0/8"], None);
        assert!(some.admits("10.1.2.3:5".parse().unwrap()));
        assert!(
            some.admits("[::ffff:10.1.2.3]:5".parse().unwrap()),
            "mapped addresses count as v4"
        );
        assert!(!some.admits("192.168.0.1:5".parse().unwrap()));
        assert!(gatekeeper(&[], None).admits("192.168.0.1:5".parse().unwrap()));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn only_connections_of_the_users_who_are_served_are_served() {
        use std::os::unix::fs::MetadataExt;

        use tokio::net::{TcpListener, TcpStream};

        let own = std::fs::metadata("/proc/self").unwrap().uid();
        let of = |users: Option<&[u32]>| {
            let local_users = users.map(Arc::from);
            AccessControl::new(Access { local_users, ..Access::default() })
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let io = ClientStream::new(accepted, peer, InFlightBytes::new(0));
        assert!(of(None).serves(&io).await);
        assert!(of(Some(&[own + 1, own])).serves(&io).await);
        assert!(!of(Some(&[own + 1])).serves(&io).await);
        drop(client);
        assert!(!of(Some(&[own])).serves(&io).await, "it cannot be told whose it was");
    }

    #[test]
    fn only_a_known_user_with_the_right_password_is_let_in() {
        let keeper = gatekeeper(&[], Some(&[("ann", "s3cret"), ("bob", "other")]));
        let with = |value: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert(PROXY_AUTHORIZATION, HeaderValue::from_static(value));
            keeper.knows(&fields)
        };
        assert!(with("Basic YW5uOnMzY3JldA=="));
        assert!(with("basic YW5uOnMzY3JldA=="));
        assert!(!with("Basic YW5uOm90aGVy"), "bob's password is not ann's");
        assert!(!with("Bearer YW5uOnMzY3JldA=="));
        assert!(!with("Basic !!!"));
        assert!(!keeper.knows(&HeaderMap::new()));
        assert!(gatekeeper(&[], None).knows(&HeaderMap::new()));
    }
}
