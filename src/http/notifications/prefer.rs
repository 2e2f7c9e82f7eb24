//! `Prefer: wait=N` (RFC 7240): how long the answer may wait to say what became of the notification.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName};

pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The longest wait: more is less than was asked for, and `Preference-Applied` says so.
const MAX_WAIT_S: u64 = 30;

/// The wait that is asked for, in seconds; the first one counts (section 2). What is no preference of ours, or
/// makes no sense, is passed over, as section 2 wants it.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    let seconds = preferences.find_map(|preference| {
        // Parameters after `;` mean nothing to `wait`.
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').to_owned())
    })?;
    let seconds: u64 = seconds.parse().ok().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds.min(MAX_WAIT_S)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(values: &[&'static str]) -> Option<u64> {
        let headers = values.iter().map(|value| (PREFER, HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        headers.for_each(|(name, value)| assert!(map.append(name, value) || map.len() == 1));
        wait(&map).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_first_wait_that_makes_sense_counts_and_is_bounded() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["wait=5"]), Some(5));
        assert_eq!(of(&["respond-async, Wait = 7; x=y", "wait=9"]), Some(7));
        assert_eq!(of(&["wait=\"3\""]), Some(3));
        assert_eq!(of(&["wait=3600"]), Some(30));
        for none in ["wait", "wait=0", "wait=-1", "wait=soon", "waiting=5", "", ",;="] {
            assert_eq!(of(&[none]), None, "{none:?}");
        }
    }
}
