//! What holds of certificates, which whoever set up the server did not write by hand either.

use chrono::DateTime;

use super::validity::Validity;

/// Certificates, of which the time is read that they are valid for.
pub fn certificates(bytes: &[u8]) {
    if let Some(validity) = Validity::of(bytes) {
        assert!(validity.trouble_at(DateTime::UNIX_EPOCH).is_none_or(|trouble| !trouble.is_empty()));
    }
}
