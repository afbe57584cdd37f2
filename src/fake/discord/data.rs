//! The data of the fake Discord: guilds, roles, members and users, generated from their ids.
//!
//! Owns: the changes, such that the same id always has the same data until a request changes it.
//! Never touches: HTTP, except for the statuses of Discord's responses.

mod generate;

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use crate::fake::discord::endpoint::Endpoint;

/// All changed data; unchanged data is generated on request.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    roles: BTreeMap<String, Vec<Value>>,
    // `None`: no longer a member.
    members: BTreeMap<(String, String), Option<Value>>,
    created: u64,
}

/// The response of an endpoint; without a body it is `204 No Content`.
pub(super) type Reply = (StatusCode, Option<Value>);

impl Data {
    /// Responds to a request with the body `sent`, by a caller with these credentials.
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
                self.change_member(guild, user, |member| add_role(member, role), false)
            }
            Endpoint::TakeRole(guild, user, role) => {
                self.change_member(guild, user, |member| remove_role_from(member, role), false)
            }
            Endpoint::Me => (StatusCode::OK, Some(generate::user(&generate::id(caller)))),
            Endpoint::MyGuilds => (StatusCode::OK, Some(generate::guilds(caller))),
            Endpoint::Unknown => not_found("404: Not Found", 0),
        }
    }

    fn roles(&self, guild: &str) -> Reply {
        if guild == MISSING_ID {
            return not_found("Unknown Guild", 10004);
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
            return not_found("Unknown Role", 10011);
        };
        merge(role, sent);
        (StatusCode::OK, Some(role.clone()))
    }

    fn remove_role(&mut self, guild: &str, role: &str) -> Reply {
        let roles = self.roles_mut(guild);
        let before = roles.len();
        roles.retain(|known| known["id"] != role);
        if roles.len() == before {
            return not_found("Unknown Role", 10011);
        }
        (StatusCode::NO_CONTENT, None)
    }

    fn member(&self, guild: &str, user: &str) -> Reply {
        if user == MISSING_ID || guild == MISSING_ID {
            return not_found("Unknown Member", 10007);
        }
        match self.members.get(&member_key(guild, user)) {
            Some(None) => not_found("Unknown Member", 10007),
            Some(Some(changed)) => (StatusCode::OK, Some(changed.clone())),
            None => (StatusCode::OK, Some(generate::member(guild, user))),
        }
    }

    fn add_member(&mut self, guild: &str, user: &str) -> Reply {
        if let Some(removed @ None) = self.members.get_mut(&member_key(guild, user)) {
            let member = generate::member(guild, user);
            *removed = Some(member.clone());
            return (StatusCode::CREATED, Some(member));
        }
        (StatusCode::NO_CONTENT, None)
    }

    fn change_member(
        &mut self,
        guild: &str,
        user: &str,
        change: impl FnOnce(&mut Value),
        return_member: bool,
    ) -> Reply {
        let (StatusCode::OK, Some(mut member)) = self.member(guild, user) else {
            return not_found("Unknown Member", 10007);
        };
        change(&mut member);
        self.members.insert(member_key(guild, user), Some(member.clone()));
        if return_member { (StatusCode::OK, Some(member)) } else { (StatusCode::NO_CONTENT, None) }
    }

    fn remove_member(&mut self, guild: &str, user: &str) -> Reply {
        match self.members.insert(member_key(guild, user), None) {
            Some(None) => not_found("Unknown Member", 10007),
            Some(Some(_)) | None => (StatusCode::NO_CONTENT, None),
        }
    }
}

fn member_key(guild: &str, user: &str) -> (String, String) {
    (guild.to_owned(), user.to_owned())
}

/// Discord's error format.
fn not_found(message: &str, code: u32) -> Reply {
    (StatusCode::NOT_FOUND, Some(json!({ "message": message, "code": code })))
}

/// Copies the fields of the request, except `id` and `user`.
fn merge(known: &mut Value, sent: &Value) {
    let (Some(known), Some(sent)) = (known.as_object_mut(), sent.as_object()) else { return };
    for (name, value) in sent {
        if name != "id" && name != "user" {
            known.insert(name.clone(), value.clone());
        }
    }
}

fn add_role(member: &mut Value, role: &str) {
    let Some(roles) = member["roles"].as_array_mut() else { return };
    if !roles.iter().any(|known| known == role) {
        roles.push(Value::from(role));
    }
}

fn remove_role_from(member: &mut Value, role: &str) {
    let Some(roles) = member["roles"].as_array_mut() else { return };
    roles.retain(|known| known != role);
}

/// The id of nonexistent guilds and members.
const MISSING_ID: &str = "0";

#[cfg(test)]
mod tests;
