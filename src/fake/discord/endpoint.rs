//! The Discord endpoint of a request.
//!
//! Owns: methods and paths. Never touches: the response of an endpoint.

use http::Method;

/// An endpoint and the ids in its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint<'a> {
    /// The roles of a guild.
    Roles(&'a str),
    /// Creates a role in a guild.
    NewRole(&'a str),
    /// Changes a role.
    ChangeRole(&'a str, &'a str),
    /// Removes a role.
    RemoveRole(&'a str, &'a str),
    /// A member of a guild.
    Member(&'a str, &'a str),
    /// Adds a user to a guild.
    AddMember(&'a str, &'a str),
    /// Changes a member.
    ChangeMember(&'a str, &'a str),
    /// Removes a member.
    RemoveMember(&'a str, &'a str),
    /// Gives a member a role.
    GiveRole(&'a str, &'a str, &'a str),
    /// Takes a role from a member.
    TakeRole(&'a str, &'a str, &'a str),
    /// The calling user.
    Me,
    /// The guilds of the calling user.
    MyGuilds,
    /// Not an endpoint of this fake.
    Unknown,
}

impl<'a> Endpoint<'a> {
    /// The endpoint of `method` and `path`. `HEAD` is `GET` without the body.
    pub(super) fn from_request(method: &Method, path: &'a str) -> Self {
        let segments: Vec<&str> = path.split('/').collect();
        let ["", "api", version, rest @ ..] = segments.as_slice() else { return Self::Unknown };
        if !is_version(version) || rest.iter().any(|segment| segment.is_empty()) {
            return Self::Unknown;
        }
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        match (method, rest) {
            ("GET", ["users", "@me"]) => Self::Me,
            ("GET", ["users", "@me", "guilds"]) => Self::MyGuilds,
            ("GET", ["guilds", guild, "roles"]) => Self::Roles(guild),
            ("POST", ["guilds", guild, "roles"]) => Self::NewRole(guild),
            ("PATCH", ["guilds", guild, "roles", role]) => Self::ChangeRole(guild, role),
            ("DELETE", ["guilds", guild, "roles", role]) => Self::RemoveRole(guild, role),
            ("GET", ["guilds", guild, "members", user]) => Self::Member(guild, user),
            ("POST" | "PUT", ["guilds", guild, "members", user]) => Self::AddMember(guild, user),
            ("PATCH", ["guilds", guild, "members", user]) => Self::ChangeMember(guild, user),
            ("DELETE", ["guilds", guild, "members", user]) => Self::RemoveMember(guild, user),
            ("PUT", ["guilds", guild, "members", user, "roles", role]) => Self::GiveRole(guild, user, role),
            ("DELETE", ["guilds", guild, "members", user, "roles", role]) => {
                Self::TakeRole(guild, user, role)
            }
            _ => Self::Unknown,
        }
    }

    /// The name under which calls are counted.
    pub(super) fn pattern(self) -> &'static str {
        match self {
            Self::Roles(..) => "GET /guilds/{guild}/roles",
            Self::NewRole(..) => "POST /guilds/{guild}/roles",
            Self::ChangeRole(..) => "PATCH /guilds/{guild}/roles/{role}",
            Self::RemoveRole(..) => "DELETE /guilds/{guild}/roles/{role}",
            Self::Member(..) => "GET /guilds/{guild}/members/{user}",
            Self::AddMember(..) => "PUT /guilds/{guild}/members/{user}",
            Self::ChangeMember(..) => "PATCH /guilds/{guild}/members/{user}",
            Self::RemoveMember(..) => "DELETE /guilds/{guild}/members/{user}",
            Self::GiveRole(..) => "PUT /guilds/{guild}/members/{user}/roles/{role}",
            Self::TakeRole(..) => "DELETE /guilds/{guild}/members/{user}/roles/{role}",
            Self::Me => "GET /users/@me",
            Self::MyGuilds => "GET /users/@me/guilds",
            Self::Unknown => "unknown",
        }
    }

    /// Whether its data depends on the caller, so that it requires credentials.
    pub(super) fn requires_credentials(self) -> bool {
        matches!(self, Self::Me | Self::MyGuilds)
    }
}

fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|number| number.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_and_path_lead_to_an_endpoint_with_its_ids() {
        let table = [
            (Method::GET, "/api/v10/guilds/1/roles", Endpoint::Roles("1")),
            (Method::HEAD, "/api/v9/guilds/1/members/2", Endpoint::Member("1", "2")),
            (Method::POST, "/api/v10/guilds/1/members/2", Endpoint::AddMember("1", "2")),
            (Method::GET, "/api/v10/users/@me", Endpoint::Me),
            (Method::DELETE, "/api/v10/guilds/1/members/2/roles/3", Endpoint::TakeRole("1", "2", "3")),
            (Method::PATCH, "/api/v10/guilds/1/roles", Endpoint::Unknown),
            (Method::GET, "/api/guilds/1/roles", Endpoint::Unknown),
            (Method::GET, "/api/v/guilds/1/roles", Endpoint::Unknown),
            (Method::GET, "/api/v10/guilds//roles", Endpoint::Unknown),
            (Method::GET, "api", Endpoint::Unknown),
        ];
        for (method, path, endpoint) in table {
            assert_eq!(Endpoint::from_request(&method, path), endpoint, "{method} {path}");
        }
    }
}
