//! Which API servers are supported. No effects.

/// Oldest and newest minor version of Kubernetes 1 that the operator is made for. Newer ones are tried.
const SUPPORTED: [u32; 2] = [33, 36];

/// What is known of the API server before anything is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Why the operator does not work with it, if so.
    pub refusal: Option<String>,
    /// Admission policies that are not in force.
    pub unprotected: Vec<String>,
}

/// Why this version is not supported, if it is not. What cannot be read is tried.
pub fn refusal(major: &str, minor: &str) -> Option<String> {
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    };
    let [oldest, newest] = SUPPORTED;
    let old = match (number(major)?, number(minor)?) {
        (0, _) => true,
        (1, minor) => minor < oldest,
        _ => false,
    };
    old.then(|| {
        format!("the API server is Kubernetes {major}.{minor}, and this operator works with 1.{oldest} to 1.{newest}: upgrade the cluster, or install an older operator")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_too_old_are_refused_with_what_would_do() {
        for (major, minor) in [("1", "32"), ("1", "32+"), ("1", "9"), ("0", "99")] {
            let refusal = refusal(major, minor).unwrap();
            assert!(refusal.contains(&format!("Kubernetes {major}.{minor}")), "{refusal}");
            assert!(refusal.contains("1.33 to 1.36"), "{refusal}");
        }
        for (major, minor) in
            [("1", "33"), ("1", "34+"), ("1", "36"), ("1", "99"), ("2", "0"), ("", ""), ("1", "x")]
        {
            assert_eq!(refusal(major, minor), None, "{major}.{minor}");
        }
    }
}
