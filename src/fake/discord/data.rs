//! What the fake Discord knows: guilds, roles, members and users, made up from their ids.
//!
//! Owns: that the same id always has the same data until a request changes it.
//! Never touches: HTTP, except for the statuses of Discord's answers.

mod generate;

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use crate::fake::discord::endpoint::Endpoint;

/// Everything that was changed; what was not is made up when it is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    roles: BTreeMap<String, Vec<Value>>,
    // `None`: not a member any more.
    members: BTreeMap<(String, String), Option<Value>>,
    created: u64,
}

/// What an endpoint answers; no body: `204 No Content`.
pub(super) type Reply = (StatusCode, Option<Value>);

impl Data {
    /// Answers a request with the body `sent`, by a caller with these credentials.
    pub(super) fn reply(&mut self, endpoint: Endpoint<'_>, sent: &Value, caller: &str) -> Reply {
        match endpoint {
            Endpoint::Roles(guild) => self.roles(guild),
            Endpoint::NewRole(guild) => self.new_role(guild, sent),
            Endpoint::ChangeRole(guild, role) => self.change_role(guild, role, sent),
            Endpoint::RemoveRole(guild, role) => self.remove_role(guild, role),
            Endpoint::Member(guild, user) => self.member(guild, user),
            Endpoint::AddMember(guild, user) => self.add_member(guild, user),
            Endpoint::ChangeMember(guild, user) => {
                self.change_member(guild, user, |member| merge(member, sent), true)
            }
            Endpoint::RemoveMember(guild, user) => self.remove_member(guild, user),
            Endpoint::GiveRole(guild, user, role) => {
                self.change_member(guild, user, |member| give(member, role), false)
            }
            Endpoint::TakeRole(guild, user, role) => {
                self.change_member(guild, user, |member| take(member, role), false)
            }
            Endpoint::Me => (StatusCode::OK, Some(generate::user(&generate::id(caller)))),
            Endpoint::MyGuilds => (StatusCode::OK, Some(generate::guilds(caller))),
            Endpoint::Unknown => unknown("404: Not Found", 0),
        }
    }

    fn roles(&self, guild: &str) -> Reply {
        if guild == NOBODY {
            return unknown("Unknown Guild", 10004);
        }
        let changed = self.roles.get(guild).cloned();
        let roles = changed.unwrap_or_else(|| generate::roles(guild));
        (StatusCode::OK, Some(Value::Array(roles)))
    }

    fn roles_mut(&mut self, guild: &str) -> &mut Vec<Value> {
        self.roles.entry(guild.to_owned()).or_insert_with(|| generate::roles(guild))
    }

    fn new_role(&mut self, guild: &str, sent: &Value) -> Reply {
        self.created += 1;
        let number = self.created;
        let roles = self.roles_mut(guild);
        let id = generate::id(&format!("{guild}/created/{number}"));
        let mut role = generate::role(&id, "new role", roles.len());
        merge(&mut role, sent);
        roles.push(role.clone());
        (StatusCode::OK, Some(role))
    }

    fn change_role(&mut self, guild: &str, role: &str, sent: &Value) -> Reply {
        let Some(role) = self.roles_mut(guild).iter_mut().find(|known| known["id"] == role) else {
            return unknown("Unknown Role", 10011);
        };
        merge(role, sent);
        (StatusCode::OK, Some(role.clone()))
    }

    fn remove_role(&mut self, guild: &str, role: &str) -> Reply {
        let roles = self.roles_mut(guild);
        let before = roles.len();
        roles.retain(|known| known["id"] != role);
        if roles.len() == before {
            return unknown("Unknown Role", 10011);
        }
        (StatusCode::NO_CONTENT, None)
    }

    fn member(&self, guild: &str, user: &str) -> Reply {
        if user == NOBODY || guild == NOBODY {
            return unknown("Unknown Member", 10007);
        }
        match self.members.get(&of(guild, user)) {
            Some(None) => unknown("Unknown Member", 10007),
            Some(Some(changed)) => (StatusCode::OK, Some(changed.clone())),
            None => (StatusCode::OK, Some(generate::member(guild, user))),
        }
    }

    fn add_member(&mut self, guild: &str, user: &str) -> Reply {
        if let Some(gone @ None) = self.members.get_mut(&of(guild, user)) {
            let member = generate::member(guild, user);
            *gone = Some(member.clone());
            return (StatusCode::CREATED, Some(member));
        }
        (StatusCode::NO_CONTENT, None)
    }

    fn change_member(
        &mut self,
        guild: &str,
        user: &str,
        change: impl FnOnce(&mut Value),
        tell: bool,
    ) -> Reply {
        let (StatusCode::OK, Some(mut member)) = self.member(guild, user) else {
            return unknown("Unknown Member", 10007);
        };
        change(&mut member);
        self.members.insert(of(guild, user), Some(member.clone()));
        if tell { (StatusCode::OK, Some(member)) } else { (StatusCode::NO_CONTENT, None) }
    }

    fn remove_member(&mut self, guild: &str, user: &str) -> Reply {
        match self.members.insert(of(guild, user), None) {
            Some(None) => unknown("Unknown Member", 10007),
            Some(Some(_)) | None => (StatusCode::NO_CONTENT, None),
        }
    }
}

fn of(guild: &str, user: &str) -> (String, String) {
    (guild.to_owned(), user.to_owned())
}

/// Discord's form of an error.
fn unknown(message: &str, code: u32) -> Reply {
    (StatusCode::NOT_FOUND, Some(json!({ "message": message, "code": code })))
}

/// Takes over what was sent, except who it is about.
fn merge(known: &mut Value, sent: &Value) {
    let (Some(known), Some(sent)) = (known.as_object_mut(), sent.as_object()) else { return };
    for (name, value) in sent {
        if name != "id" && name != "user" {
            known.insert(name.clone(), value.clone());
        }
    }
}

fn give(member: &mut Value, role: &str) {
    let Some(roles) = member["roles"].as_array_mut() else { return };
    if !roles.iter().any(|known| known == role) {
        roles.push(Value::from(role));
    }
}

fn take(member: &mut Value, role: &str) {
    let Some(roles) = member["roles"].as_array_mut() else { return };
    roles.retain(|known| known != role);
}

/// The id of what does not exist.
const NOBODY: &str = "0";

#[cfg(test)]
mod tests;
