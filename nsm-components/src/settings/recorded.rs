//! Which variables a process looked at: it says so at its start, and which others it ignores.

use std::{cell::RefCell, collections::BTreeMap};

use super::Vars;

/// Beginning of the names of the mesh's variables.
const PREFIX: &str = "NSM_";

/// Another source of settings, and what was read of it.
#[derive(Debug)]
pub struct Recorded<V> {
    vars: V,
    read: RefCell<BTreeMap<String, Option<String>>>,
}

impl<V: Vars> Recorded<V> {
    /// Nothing is read yet.
    pub fn new(vars: V) -> Self {
        Self { vars, read: RefCell::default() }
    }

    /// What was read and is set: `NAME=value`, in the order of names. No setting is a secret: those are in
    /// files, whose paths these are.
    pub fn read(&self) -> Vec<String> {
        let read = self.read.borrow();
        read.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))).collect()
    }

    /// Of these names of variables, the mesh's that nobody read. Their values may be anything.
    pub fn ignored(&self, names: impl IntoIterator<Item = String>) -> Vec<String> {
        let read = self.read.borrow();
        let mut ignored: Vec<_> =
            names.into_iter().filter(|name| name.starts_with(PREFIX) && !read.contains_key(name)).collect();
        ignored.sort();
        ignored
    }
}

impl<V: Vars> Vars for Recorded<V> {
    fn get(&self, name: &str) -> Option<String> {
        let value = self.vars.get(name);
        self.read.borrow_mut().insert(name.to_owned(), value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_told_with_its_value_and_what_is_not_by_its_name_alone() {
        let set = [("NSM_NAME", "a"), ("NSM_PASSWORD", "b"), ("HOME", "/")];
        let set: BTreeMap<String, String> = set.map(|(name, value)| (name.into(), value.into())).into();
        let vars = Recorded::new(set.clone());
        assert_eq!((vars.get("NSM_NAME").as_deref(), vars.get("NSM_LABELS")), (Some("a"), None));
        assert_eq!(vars.read(), ["NSM_NAME=a"]);
        assert_eq!(vars.ignored(set.into_keys()), ["NSM_PASSWORD"]);
    }
}
