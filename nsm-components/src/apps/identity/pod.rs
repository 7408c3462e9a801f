//! Which pod a process is in, read from its `/proc/<pid>/cgroup`. Pure.
//!
//! The kubelet makes `<root>/kubepods[/<qos>]/pod<uid>/…`, with slashes (cgroupfs driver) or as
//! systemd slices, in each hierarchy of cgroup v1 or in the one of v2. A pod may be able to make
//! cgroups below its own and so write what it likes behind its pod segment; a user of the host may
//! own a part of the tree and write a whole path there. So the pod segment counts only directly
//! below *the* kubepods root, which the agent knows from its own path, and a second one refuses.
//!
//! With a cgroup namespace of its own (the rule for containers on v2) the agent is at `/` and sees
//! others as `/../../pod<uid>/…`: the way up ends at or below the root, so the same rule holds.

use std::collections::BTreeMap;

/// Why a process is in no pod that can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PodError {
    #[error("it runs in no pod of this node")]
    NoPod,
    #[error("its cgroup {0:?} names two pods")]
    TwoPods(String),
    #[error("its cgroup {0:?} is below another kubepods root than this agent's")]
    OtherRoot(String),
    #[error("its cgroup hierarchies name different pods")]
    Disagree,
}

/// Where pods are, as this process sees the hierarchies: by their controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Roots(BTreeMap<String, Root>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Root {
    /// Path of the kubepods root, itself included.
    Known(Vec<String>),
    /// This process is the top of what it sees.
    Namespace,
}

// === impl Roots ===

impl Roots {
    /// From the own `/proc/self/cgroup`; a process that is in no pod knows no root, and then takes
    /// the first one in each path.
    pub(super) fn learn(own: &str) -> Self {
        let roots = lines(own).filter_map(|(controllers, path)| {
            let segments: Vec<_> = segments(path).collect();
            let root = match segments.iter().rposition(|segment| is_root(segment)) {
                Some(last) => Root::Known(segments[..=last].iter().map(ToString::to_string).collect()),
                None if segments.is_empty() => Root::Namespace,
                None => return None,
            };
            Some((controllers.to_owned(), root))
        });
        Self(roots.collect())
    }

    /// UID of the pod that `cgroup`, the text of `/proc/<pid>/cgroup`, stands for.
    pub(super) fn pod_uid(&self, cgroup: &str) -> Result<String, PodError> {
        let known = |controllers: &str| matches!(self.0.get(controllers), Some(Root::Known(_)));
        let mut expected = self.0.values().filter(|root| matches!(root, Root::Known(_))).count();
        let mut found: Option<String> = None;
        for (controllers, path) in lines(cgroup) {
            let Some(uid) = self.pod_in(controllers, path)? else { continue };
            expected = expected.saturating_sub(usize::from(known(controllers)));
            if found.get_or_insert_with(|| uid.clone()) != &uid {
                return Err(PodError::Disagree);
            }
        }
        // Where the agent has a root, a pod has one too: no other hierarchy can stand in for it.
        match found {
            Some(uid) if expected == 0 => Ok(uid),
            Some(_) => Err(PodError::Disagree),
            None => Err(PodError::NoPod),
        }
    }

    fn pod_in(&self, controllers: &str, path: &str) -> Result<Option<String>, PodError> {
        let segments: Vec<_> = segments(path).collect();
        let first_root = segments.iter().position(|segment| is_root(segment));
        let below = match (self.0.get(controllers), first_root) {
            (Some(Root::Known(root)), _) if segments.starts_with_all(root) => &segments[root.len()..],
            (Some(Root::Known(_)), Some(_)) => return Err(PodError::OtherRoot(path.to_owned())),
            (Some(Root::Namespace), _) if segments.first() == Some(&"..") => {
                let up = segments.iter().take_while(|segment| **segment == "..").count();
                &segments[up..]
            }
            (None | Some(Root::Namespace), Some(root)) => &segments[root + 1..],
            (_, None) => return Ok(None),
        };
        let pod = match below {
            [pod, ..] if pod_uid(pod).is_some() => 0,
            [qos, pod, ..] if is_qos(qos) && pod_uid(pod).is_some() => 1,
            _ => return Ok(None),
        };
        if below[pod + 1..].iter().any(|segment| pod_uid(segment).is_some()) {
            return Err(PodError::TwoPods(path.to_owned()));
        }
        Ok(pod_uid(below[pod]))
    }
}

/// `starts_with` for segments that are owned on one side.
trait StartsWith {
    fn starts_with_all(&self, prefix: &[String]) -> bool;
}

impl StartsWith for Vec<&str> {
    fn starts_with_all(&self, prefix: &[String]) -> bool {
        self.len() >= prefix.len() && self.iter().zip(prefix).all(|(a, b)| a == b)
    }
}

/// Controllers and path of each hierarchy (cgroups(7): `id:controllers:path`).
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    })
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// `kubepods`, `kubepods.slice`, or below another root with systemd `e2e-node1-kubepods.slice`.
fn is_root(segment: &str) -> bool {
    segment == "kubepods" || segment.strip_suffix(".slice").is_some_and(is_root_stem)
}

/// `burstable`, or `kubepods-burstable.slice` and the same with a longer root.
fn is_qos(segment: &str) -> bool {
    ["burstable", "besteffort"].into_iter().any(|qos| {
        let slice = || segment.strip_suffix(".slice")?.strip_suffix(qos)?.strip_suffix('-');
        segment == qos || slice().is_some_and(is_root_stem)
    })
}

fn is_root_stem(stem: &str) -> bool {
    stem == "kubepods" || stem.ends_with("-kubepods")
}

/// The UID of a pod segment: `pod<uid>`, or `kubepods[-<qos>]-pod<uid with _>.slice`.
fn pod_uid(segment: &str) -> Option<String> {
    if let Some(uid) = segment.strip_prefix("pod") {
        return is_uid(uid).then(|| uid.to_owned());
    }
    let (parents, uid) = segment.strip_suffix(".slice")?.rsplit_once("-pod")?;
    let parents =
        parents.strip_suffix("-burstable").or(parents.strip_suffix("-besteffort")).unwrap_or(parents);
    let uid = uid.replace('_', "-");
    (is_root_stem(parents) && is_uid(&uid)).then_some(uid)
}

/// A UUID, or the 32 hex digits that the kubelet gives a static pod.
fn is_uid(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let parts: Vec<_> = text.split('-').collect();
    let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
    parts.into_iter().all(hex) && (lengths == [32] || lengths == [8, 4, 4, 4, 12])
}

#[cfg(test)]
mod tests;
