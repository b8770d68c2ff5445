//! How long settings say that something is kept, such as 12h or 30d.

use std::time::Duration;

/// Far beyond what anybody keeps, and near enough for every clock and for Postgres' timestamps.
const LONGEST: Duration = Duration::from_hours(24 * 365 * 100);

/// Reads a duration as people write it: numbers with units, such as 90s, 12h or 30d. A hundred years are the most.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration > LONGEST { Err("it is longer than a hundred years".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_up_to_a_hundred_years() {
        assert_eq!(parse("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse("36500d"), Ok(LONGEST));
        for (text, reason) in
            [("36501d", "a hundred years"), ("30", "unit"), ("", "empty"), ("99999999999999999999y", "large")]
        {
            let error = parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
