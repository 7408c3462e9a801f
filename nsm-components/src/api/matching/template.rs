//! The part of Go's text/template that selectors can use: actions that read a label of the client.
//! Anything else counts as the text it is, as a template that fails does upstream.

use std::collections::BTreeMap;

/// What an absent label reads as: by its name, as Go prints a missing key.
const NO_VALUE: &str = "<no value>";

/// The template with these labels in it; none for a text that is no template of this kind.
pub(super) fn render(template: &str, labels: &BTreeMap<String, String>) -> Option<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}")?;
        let (action, trim_before) = match action.strip_prefix('-') {
            Some(trimmed) if trimmed.starts_with(char::is_whitespace) => (trimmed, true),
            _ => (action, false),
        };
        let (action, trim_after) = match action.strip_suffix('-') {
            Some(trimmed) if trimmed.ends_with(char::is_whitespace) => (trimmed, true),
            _ => (action, false),
        };
        text.push_str(if trim_before { before.trim_end() } else { before });
        text.push_str(value(action.trim(), labels)?);
        rest = if trim_after { after.trim_start() } else { after };
    }
    text.push_str(rest);
    Some(text)
}

/// `.key`, `$.key`, `index . "key"` or a quoted text.
fn value<'a>(action: &'a str, labels: &'a BTreeMap<String, String>) -> Option<&'a str> {
    if let Some(fields) = action.strip_prefix('$').unwrap_or(action).strip_prefix('.') {
        return field(fields, labels);
    }
    let Some(index) = action.strip_prefix("index").filter(|rest| rest.starts_with(char::is_whitespace))
    else {
        return quoted(action);
    };
    let index = index.trim_start();
    let key = index.strip_prefix('.').or_else(|| index.strip_prefix('$'))?;
    // Other than a field, an index that is absent reads as empty.
    Some(labels.get(quoted(key.trim_start())?).map_or("", String::as_str))
}

/// A label by its name. A text has no fields, so only what is absent can be gone into.
fn field<'a>(fields: &str, labels: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let mut names = fields.split('.');
    let is_name = |name: &str| {
        name.chars().all(|c| c.is_alphanumeric() || c == '_')
            && name.chars().next().is_some_and(|first| !first.is_numeric())
    };
    let first = names.next().filter(|name| is_name(name))?;
    let mut deeper = names.peekable();
    match labels.get(first) {
        Some(value) => deeper.peek().is_none().then_some(value),
        None => deeper.all(is_name).then_some(NO_VALUE),
    }
}

/// The text between quotes, if nothing in it is escaped.
fn quoted(text: &str) -> Option<&str> {
    let between = |quote| text.strip_prefix(quote)?.strip_suffix(quote).filter(|key| !key.contains(quote));
    between('`').or_else(|| between('"').filter(|key| !key.contains(['\\', '\n'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go 1.26 made of each with these labels.
    #[test]
    fn templates_read_as_gos_do() {
        let labels = [("nodeName", "n1"), ("a.b", "dots"), ("x-y", "dash"), ("e", ""), ("ü", "u")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        for (template, expected) in [
            ("{{.nodeName}}", Some("n1")),
            ("{{ .nodeName }}", Some("n1")),
            ("{{\n.nodeName}}", Some("n1")),
            ("{{$.nodeName}}", Some("n1")),
            ("pre-{{.nodeName}}-post", Some("pre-n1-post")),
            ("  {{- .nodeName -}}  x", Some("n1x")),
            ("{{.nodeName}}{{.missing}}", Some("n1<no value>")),
            ("{{.nodeName}}}", Some("n1}")),
            ("{{.missing}}", Some("<no value>")),
            ("{{._a}}", Some("<no value>")),
            ("{{.a.b}}", Some("<no value>")),
            ("{{ .missing.b }}", Some("<no value>")),
            ("{{.e}}", Some("")),
            ("{{.ü}}", Some("u")),
            (r#"{{ index . "a.b" }}"#, Some("dots")),
            (r#"{{index  .  "a.b"}}"#, Some("dots")),
            (r#"{{index $ "a.b"}}"#, Some("dots")),
            ("{{ index . `a.b` }}", Some("dots")),
            (r#"{{index . "missing"}}"#, Some("")),
            (r#"{{ "lit" }}"#, Some("lit")),
            ("a }} b", Some("a }} b")),
            ("plain", Some("plain")),
            // These fail in Go as well, or are more than labels.
            ("{{.nodeName.b}}", None),
            ("{{.x-y}}", None),
            ("{{.1a}}", None),
            ("{{-.nodeName}}", None),
            ("{{", None),
            ("{{}}", None),
            ("{{ .nodeName }", None),
            ("{{ . nodeName }}", None),
            ("{{if}}", None),
            ("{{indexed . \"a.b\"}}", None),
        ] {
            assert_eq!(render(template, &labels).as_deref(), expected, "{template}");
        }
    }
}
