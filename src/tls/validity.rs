//! From when until when a certificate is valid: the little of X.509 that the TLS library does not tell.

use chrono::{DateTime, NaiveDateTime, Utc};

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version, which certificates of version 1 leave out.
const VERSION: u8 = 0xa0;

/// From when until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    begin: DateTime<Utc>,
    pub(crate) end: DateTime<Utc>,
}

impl Validity {
    /// What the certificate says (RFC 5280, 4.1), if that can be read.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let mut certificate = Values(certificate);
        let mut certificate = Values(certificate.take(SEQUENCE)?);
        let mut signed = Values(certificate.take(SEQUENCE)?);
        let _version = signed.take(VERSION);
        let _serial_number = signed.take(INTEGER)?;
        let _signature_algorithm = signed.take(SEQUENCE)?;
        let _issuer = signed.take(SEQUENCE)?;
        let mut validity = Values(signed.take(SEQUENCE)?);
        Some(Self { begin: validity.take_time()?, end: validity.take_time()? })
    }

    /// What is wrong with it at that moment, if anything.
    pub(crate) fn trouble_at(&self, now: DateTime<Utc>) -> Option<String> {
        if now > self.end {
            Some(format!("has expired on {}", self.end))
        } else if now < self.begin {
            Some(format!("is not valid before {}", self.begin))
        } else {
            None
        }
    }
}

/// Values one after another, as DER writes them: a tag, a length, and the value.
struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// The next value, if it has that tag.
    fn take(&mut self, expected: u8) -> Option<&'a [u8]> {
        let (&tag, rest) = self.0.split_first()?;
        if tag != expected {
            return None;
        }
        let (&length, rest) = rest.split_first()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            // As many bytes with the length follow.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(value)
    }

    fn take_time(&mut self) -> Option<DateTime<Utc>> {
        let (text, century) = match self.take(UTC_TIME) {
            // Of years with two digits, those from 50 lie in the last century.
            Some(text) => (text, if *text.first()? >= b'5' { "19" } else { "20" }),
            None => (self.take(GENERALIZED_TIME)?, ""),
        };
        let text = format!("{century}{}", std::str::from_utf8(text).ok()?);
        NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok().map(|time| time.and_utc())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn validity(begin: i32, end: i32) -> Validity {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(begin, 2, 3);
        parameters.not_after = date_time_ymd(end, 4, 5);
        let certificate = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
        for length in 0..certificate.der().len() {
            // What is cut off is no reason to panic.
            let _ = Validity::of(&certificate.der()[..length]);
        }
        Validity::of(certificate.der()).unwrap()
    }

    #[test]
    fn a_certificate_says_from_when_until_when_it_is_valid() {
        // Years from 2050 on are written in another way.
        for (begin, end) in [(1999, 2024), (2024, 2049), (2049, 2050), (2051, 4096)] {
            let validity = validity(begin, end);
            let expected = [Utc.with_ymd_and_hms(begin, 2, 3, 0, 0, 0), Utc.with_ymd_and_hms(end, 4, 5, 0, 0, 0)];
            assert_eq!([validity.begin, validity.end], expected.map(|moment| moment.unwrap()));
        }
    }

    #[test]
    fn a_certificate_that_is_not_valid_now_says_why() {
        let now = Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap();
        let trouble = |begin, end| validity(begin, end).trouble_at(now);
        assert_eq!(trouble(2020, 2030), None);
        assert_eq!(trouble(2020, 2025).unwrap(), "has expired on 2025-04-05 00:00:00 UTC");
        assert_eq!(trouble(2027, 2030).unwrap(), "is not valid before 2027-02-03 00:00:00 UTC");
    }
}
