//! The same ids give the same data, and changes persist.

use super::*;

fn reply_body(data: &mut Data, endpoint: Endpoint<'_>) -> Value {
    data.reply(endpoint, &Value::Null, "Bot a").1.unwrap()
}

#[test]
fn the_same_ids_give_the_same_data_and_other_ids_give_other_data() {
    let first = reply_body(&mut Data::default(), Endpoint::Roles("1"));
    assert_eq!(reply_body(&mut Data::default(), Endpoint::Roles("1")), first);
    assert_ne!(reply_body(&mut Data::default(), Endpoint::Roles("2")), first);
    let member = reply_body(&mut Data::default(), Endpoint::Member("1", "7"));
    assert_eq!(member["user"]["id"], "7");
    assert_ne!(reply_body(&mut Data::default(), Endpoint::Member("1", "8")), member);
}

#[test]
fn responses_have_a_realistic_size() {
    let mut data = Data::default();
    let roles = reply_body(&mut data, Endpoint::Roles("1")).to_string().len();
    assert!((2_000..4_000).contains(&roles), "{roles} bytes");
    let member = reply_body(&mut data, Endpoint::Member("1", "7")).to_string().len();
    assert!((500..1_500).contains(&member), "{member} bytes");
}

#[test]
fn changed_created_and_removed_roles_show_in_the_list() {
    let mut data = Data::default();
    let before = reply_body(&mut data, Endpoint::Roles("1"));
    let id = before[1]["id"].as_str().unwrap();
    let renamed = json!({ "name": "Renamed", "id": "5" });
    let (status, role) = data.reply(Endpoint::ChangeRole("1", id), &renamed, "");
    assert_eq!(status, StatusCode::OK);
    assert_eq!(role.unwrap()["id"], id);
    assert_eq!(reply_body(&mut data, Endpoint::Roles("1"))[1]["name"], "Renamed");
    let (_, created) = data.reply(Endpoint::NewRole("1"), &json!({ "name": "Created" }), "");
    assert_eq!(reply_body(&mut data, Endpoint::Roles("1"))[10], created.unwrap());
    let (status, body) = data.reply(Endpoint::RemoveRole("1", id), &Value::Null, "");
    assert_eq!((status, body), (StatusCode::NO_CONTENT, None));
    assert_eq!(reply_body(&mut data, Endpoint::Roles("1")).as_array().unwrap().len(), 10);
    let (status, _) = data.reply(Endpoint::RemoveRole("1", id), &Value::Null, "");
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[test]
fn a_member_can_be_changed_given_a_role_removed_and_added_again() {
    let mut data = Data::default();
    let generated = reply_body(&mut data, Endpoint::Member("1", "7"));
    data.reply(Endpoint::ChangeMember("1", "7"), &json!({ "nick": "N" }), "");
    data.reply(Endpoint::GiveRole("1", "7", "99"), &Value::Null, "");
    let changed = reply_body(&mut data, Endpoint::Member("1", "7"));
    assert_eq!(changed["nick"], "N");
    assert_eq!(changed["roles"].as_array().unwrap().last().unwrap(), "99");
    data.reply(Endpoint::TakeRole("1", "7", "99"), &Value::Null, "");
    assert_eq!(reply_body(&mut data, Endpoint::Member("1", "7"))["roles"], generated["roles"]);
    data.reply(Endpoint::RemoveMember("1", "7"), &Value::Null, "");
    assert_eq!(reply_body(&mut data, Endpoint::Member("1", "7"))["code"], 10007);
    let (status, _) = data.reply(Endpoint::ChangeMember("1", "7"), &json!({ "nick": "N" }), "");
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, added) = data.reply(Endpoint::AddMember("1", "7"), &Value::Null, "");
    assert_eq!((status, added), (StatusCode::CREATED, Some(generated)));
}

#[test]
fn me_and_my_guilds_depend_on_the_credentials() {
    let mut data = Data::default();
    for endpoint in [Endpoint::Me, Endpoint::MyGuilds] {
        let (_, a) = data.reply(endpoint, &Value::Null, "Bearer a");
        let (_, b) = data.reply(endpoint, &Value::Null, "Bearer b");
        assert_ne!(a, b);
    }
}
