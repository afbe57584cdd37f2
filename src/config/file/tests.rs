//! The tree with source locations: locations, limits against bombs, refused YAML.

use std::fmt::Write;

use crate::config::file::{LONGEST, ScalarKind, Value, parse};

#[test]
fn scalars_keep_their_spelling() {
    let items = "1, 0x1F, 007, 1e3, true, yes, off, 'q', \"w\", 5M, .nan, 12345678901234567890123";
    let Value::Map(entries) = parse(&format!("a: [{items}]")).unwrap().value else { panic!("a map") };
    let Value::List(read) = &entries[0].value.value else { panic!("a list") };
    let read: Vec<_> = read.iter().map(|item| item.value.clone()).collect();
    let typed = ["1", "0x1F", "007", "1e3", "true", "12345678901234567890123"];
    let expected = items.split(", ").map(|text| {
        let kind = if typed.contains(&text) { ScalarKind::Typed } else { ScalarKind::Text };
        Value::Scalar(text.replace(['\'', '"'], ""), kind)
    });
    assert_eq!(read, expected.collect::<Vec<_>>());
}

#[test]
fn keys_and_values_have_their_locations() {
    let Value::Map(entries) = parse("x: 1\nabc:   de\n").unwrap().value else { panic!("a map") };
    let (key, value) = (entries[1].place, entries[1].value.place);
    assert_eq!((key.line, key.column, key.width), (2, 1, 3));
    assert_eq!((value.line, value.column, value.width), (2, 8, 2));
}

#[test]
fn an_alias_has_its_own_location_and_the_text_of_its_anchor() {
    let Value::Map(entries) = parse("a: &t 30\nb: *t").unwrap().value else { panic!("a map") };
    assert_eq!(entries[1].value.value, Value::Scalar("30".to_owned(), ScalarKind::Typed));
    assert_eq!(entries[1].value.place.line, 2);
}

#[test]
fn invalid_yaml_is_reported_with_location_and_reason() {
    let table = [
        ("a: 1\na: 2", 2, "the key `a` is defined a second time"),
        ("a:\n  404: 1\n  \"404\": 2", 3, "the key `404` is defined a second time"),
        ("a: 1\n---\nb: 2", 3, "a second YAML document"),
        ("a: [1", 1, "this is not YAML: unclosed bracket"),
        ("a: b: c", 1, "this is not YAML: mapping values"),
        ("a: *x", 1, "this alias has no anchor"),
        ("a: *.example", 1, "this alias has no anchor"),
        ("null: 1", 1, "this key is empty"),
        ("? [a]\n: 1", 1, "this is not YAML"),
        ("a: !foo 1", 1, "this is not YAML"),
    ];
    for (text, line, what) in table {
        let problem = parse(text).expect_err(text);
        assert!(problem.what.contains(what), "{text}: {}", problem.what);
        assert_eq!(problem.place.line, line, "{text}");
        let text = format!("{} {}", problem.what, problem.fix);
        assert!(!text.contains("Options") && !text.contains("from_str"), "{text}: {text}");
    }
}

#[test]
fn bombs_and_deep_nesting_are_refused_early() {
    let mut aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..10 {
        let list = vec![format!("*a{}", level - 1); 9].join(",");
        writeln!(aliases, "a{level}: &a{level} [{list}]").unwrap();
    }
    let deep = (0..1400).fold(String::new(), |text, depth| text + &" ".repeat(depth) + "a:\n");
    let bombs = [
        ("aliases", aliases),
        ("brackets", "[".repeat(100_000)),
        ("lists", format!("{}x", "- ".repeat(10_000))),
        ("flow maps", format!("{}x{}", "{a: ".repeat(10_000), "}".repeat(10_000))),
        ("block maps", deep),
        ("values", format!("[{}1]", "1,".repeat(30_000))),
        ("documents", "---\na: 1\n".repeat(10_000)),
        ("length", " ".repeat(LONGEST + 1)),
    ];
    for (name, text) in bombs {
        assert!(parse(&text).is_err(), "{name}");
    }
}
