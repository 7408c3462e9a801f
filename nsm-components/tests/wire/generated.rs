//! Every message with every field.

use std::collections::{BTreeMap, BTreeSet};

use crate::recording::{Recorded, lines};

const RECORDING: &str = include_str!("generated.txt");

fn cases(wanted: impl Fn(&str) -> bool) -> Vec<Recorded<'static>> {
    let found: Vec<_> = lines(RECORDING).filter(|recorded| wanted(recorded.case)).collect();
    assert!(!found.is_empty());
    found
}

/// Prost leaves out of a map's entry what is empty, as encoders may; upstream writes it.
fn is_shortened(recorded: &Recorded<'_>) -> bool {
    recorded.case.ends_with("=empty-value")
}

/// Names as they are compared: Rust spells the same ones in its own way.
fn plain(name: &str) -> String {
    name.chars().filter(|char| *char != '_').flat_map(char::to_lowercase).collect()
}

/// Fields and the texts in them, as in `id: "connection.Connection.id"`.
fn texts(debug: &str) -> Vec<(String, String)> {
    let mut field = String::new();
    let mut found = Vec::new();
    for (number, part) in debug.split('"').enumerate() {
        if number % 2 == 1 {
            found.push((field.clone(), part.to_owned()));
        } else if let Some((before, _)) = part.rsplit_once(": ")
            && !part.ends_with(", ")
        {
            // The name before the colon; of a key of a map there is none.
            let start = before.rfind(|char: char| !char.is_alphanumeric() && char != '_');
            let name = &before[start.map_or(0, |start| start + 1)..];
            if !name.is_empty() {
                name.clone_into(&mut field);
            }
        }
    }
    found
}

#[test]
fn all_messages_of_upstream_are_given_out_as_they_came() {
    for recorded in cases(|case| case != "full-and-unknown") {
        if !is_shortened(&recorded) {
            let taken = recorded.take();
            assert_eq!(taken.bytes, recorded.bytes(), "{} {}: {}", recorded.name, recorded.case, taken.text);
        }
    }
}

#[test]
fn a_map_with_an_empty_value_is_the_same_map_in_fewer_bytes() {
    for recorded in cases(|case| case.ends_with("=empty-value")) {
        let taken = recorded.take();
        assert!(taken.text.contains(r#"{"a": "#), "{}: {}", recorded.name, taken.text);
        assert!(taken.bytes.len() < recorded.bytes().len(), "{} {}", recorded.name, recorded.case);
    }
}

#[test]
fn fields_of_later_versions_are_passed_over() {
    let full: BTreeMap<_, _> =
        cases(|case| case == "full").into_iter().map(|full| (full.name, full.bytes())).collect();
    for recorded in cases(|case| case == "full-and-unknown") {
        assert_eq!(recorded.take().bytes, full[recorded.name], "{}", recorded.name);
    }
}

#[test]
fn every_text_is_in_the_field_of_its_name() {
    let mut seen = BTreeSet::new();
    for recorded in cases(|case| case == "full") {
        for (field, text) in texts(&recorded.take().text) {
            // Keys of maps are no values.
            let Some((message, name)) = text.rsplit_once('.') else { continue };
            assert_eq!(plain(&field), plain(name), "{} of {}", text, recorded.name);
            seen.insert(format!("{message}.{name}"));
        }
    }
    // A field that has another number, or none, would show up nowhere.
    let all = cases(|case| case.starts_with("only-")).into_iter().filter_map(|only| {
        let field = format!("{}.{}", only.name, only.case.trim_start_matches("only-"));
        only.bytes().windows(field.len()).any(|text| text == field.as_bytes()).then_some(field)
    });
    assert_eq!(seen, all.collect());
}

#[test]
fn every_value_of_an_enumeration_has_its_name() {
    for recorded in cases(|case| case.contains('=')) {
        let (field, value) = recorded.case.split_once('=').unwrap();
        let is_name = value.starts_with(|char: char| char.is_ascii_uppercase());
        if !is_name {
            continue;
        }
        let text = recorded.take().text;
        let wanted = format!("{}: {}", plain(field), plain(value));
        assert!(plain(&text).contains(&wanted), "{} {}: {text}", recorded.name, recorded.case);
    }
}

#[test]
fn a_value_that_an_enumeration_has_not_stays_what_it_is() {
    for recorded in cases(|case| case.ends_with("=99")) {
        let taken = recorded.take();
        assert!(taken.text.contains("99"), "{}: {}", recorded.name, taken.text);
    }
}
