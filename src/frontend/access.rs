//! Access control: client addresses, users of this host, and proxy users.
//!
//! Owns: `access`. Never touches: allowed destinations (`upstream::connect::egress_policy`).

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

/// The request has no valid credentials of a user in `access.users_file`.
pub const USER_REQUIRED: Problem = Problem::new(
    StatusCode::PROXY_AUTHENTICATION_REQUIRED,
    "user_required",
    "Proxy-Authorization for a user of access.users_file is required; below `larder exec`, use the \
     credentials in http_proxy",
    "http_request_denied",
);

/// A user that this larder was not started for owns the connection.
pub const FOREIGN_USER: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "foreign_user",
    "this larder serves only root and the user that started `larder exec`; this connection belongs to \
     another user or is closed: run `larder exec` as the user that runs the command, or `larder run` \
     for all users",
    "http_request_denied",
);

/// Evaluates the access rules.
pub struct AccessControl {
    access: Access,
    /// Digests of `user:password`, so that comparing takes the same time for every guess.
    users: Option<Vec<[u8; 32]>>,
}

impl AccessControl {
    /// Creates the access control for the rules of `access`.
    pub fn new(access: Access) -> Self {
        let users = access.users.as_ref().map(|users| {
            users.0.iter().map(|(user, password)| digest(format!("{user}:{password}").as_bytes())).collect()
        });
        Self { access, users }
    }

    /// Whether a client with the address `peer` may connect.
    pub fn admits(&self, peer: SocketAddr) -> bool {
        let ip: IpAddr = peer.ip().to_canonical();
        self.access.clients.is_empty() || self.access.clients.iter().any(|net| net.contains(&ip))
    }

    /// Whether a user that larder serves owns the client's end of the connection. The system is queried
    /// once per connection, and only if larder does not serve all users.
    pub(super) async fn allows_local_user(&self, io: &ClientStream) -> bool {
        let Some(users) = &self.access.local_users else { return true };
        let Some(ours) = io.local() else { return false };
        // A user that the system does not identify is not served.
        owner(ours, io.peer()).await.is_some_and(|user| users.contains(&user))
    }

    /// Whether the fields contain the credentials of a known user.
    pub fn authenticates(&self, fields: &HeaderMap) -> bool {
        let Some(users) = &self.users else { return true };
        let Some(given) = fields.get(PROXY_AUTHORIZATION).and_then(|v| basic(v.as_bytes())) else {
            return false;
        };
        let given = digest(&given);
        // Every user is compared, so that the duration reveals nothing.
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

    fn access_control(clients: &[&str], users: Option<&[(&str, &str)]>) -> AccessControl {
        let users = users.map(|users| {
            Users(users.iter().map(|(u, p)| ((*u).to_owned(), (*p).to_owned())).collect::<Arc<[_]>>())
        });
        AccessControl::new(Access {
            clients: clients.iter().map(|c| c.parse().unwrap()).collect(),
            users,
            local_users: None,
        })
    }

    #[test]
    fn clients_outside_the_list_are_not_admitted() {
        let limited = access_control(&["10.0.0.0/8"], None);
        assert!(limited.admits("10.1.2.3:5".parse().unwrap()));
        assert!(limited.admits("[::ffff:10.1.2.3]:5".parse().unwrap()), "mapped addresses count as v4");
        assert!(!limited.admits("192.168.0.1:5".parse().unwrap()));
        assert!(access_control(&[], None).admits("192.168.0.1:5".parse().unwrap()));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn only_connections_of_allowed_local_users_are_served() {
        use std::os::unix::fs::MetadataExt;

        use tokio::net::{TcpListener, TcpStream};

        let own = std::fs::metadata("/proc/self").unwrap().uid();
        let serving = |users: Option<&[u32]>| {
            let local_users = users.map(Arc::from);
            AccessControl::new(Access { local_users, ..Access::default() })
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let io = ClientStream::new(accepted, peer, InFlightBytes::new(0));
        assert!(serving(None).allows_local_user(&io).await);
        assert!(serving(Some(&[own + 1, own])).allows_local_user(&io).await);
        assert!(!serving(Some(&[own + 1])).allows_local_user(&io).await);
        drop(client);
        assert!(!serving(Some(&[own])).allows_local_user(&io).await, "its owner is unknown");
    }

    #[test]
    fn only_a_known_user_with_the_right_password_is_admitted() {
        let control = access_control(&[], Some(&[("ann", "s3cret"), ("bob", "other")]));
        let with = |value: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert(PROXY_AUTHORIZATION, HeaderValue::from_static(value));
            control.authenticates(&fields)
        };
        assert!(with("Basic YW5uOnMzY3JldA=="));
        assert!(with("basic YW5uOnMzY3JldA=="));
        assert!(!with("Basic YW5uOm90aGVy"), "bob's password is not ann's");
        assert!(!with("Bearer YW5uOnMzY3JldA=="));
        assert!(!with("Basic !!!"));
        assert!(!control.authenticates(&HeaderMap::new()));
        assert!(access_control(&[], None).authenticates(&HeaderMap::new()));
    }
}
