//! Numbers, durations and truth values as Go's `flag` package reads them, since operators' files are written for it.

use std::time::Duration;

/// Go's text for what it could not read.
pub const PARSE_ERROR: &str = "parse error";
/// Go's text for a number that does not fit.
pub const RANGE_ERROR: &str = "value out of range";

/// `1`, `t`, `true`, `0`, `f`, `false` and their usual capitals.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(PARSE_ERROR.into()),
    }
}

/// A signed number, decimal or with the prefix 0x, 0o or 0b.
pub fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let magnitude = i128::from(parse_uint(digits)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| RANGE_ERROR.into())
}

/// An unsigned number, decimal or with the prefix 0x, 0o or 0b.
pub fn parse_uint(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, radix)| lower.strip_prefix(prefix).map(|digits| (digits, radix)))
        .unwrap_or((&lower, 10));
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(PARSE_ERROR.into());
    }
    u64::from_str_radix(digits, radix).map_err(|_| RANGE_ERROR.into())
}

/// A duration such as `1h30m` or `1.5s`; a number without unit is refused, but for 0.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.starts_with('-') {
        return Err("a negative duration makes no sense here".into());
    }
    if digits == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = digits;
    let mut total_nanos = 0f64;
    while !rest.is_empty() {
        let (amount, after) = split_amount(rest).ok_or(PARSE_ERROR)?;
        let (unit_nanos, after) = split_unit(after).ok_or(PARSE_ERROR)?;
        total_nanos += amount * unit_nanos;
        rest = after;
    }
    if digits.is_empty() || total_nanos > i64::MAX as f64 {
        return Err(PARSE_ERROR.into());
    }
    Ok(Duration::from_nanos(total_nanos.round() as u64))
}

fn split_amount(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text[..end].parse().ok().map(|amount| (amount, &text[end..]))
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    const UNITS: [(&str, f64); 8] =
        [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
    UNITS.into_iter().find_map(|(name, nanos)| text.strip_prefix(name).map(|rest| (nanos, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            ("300ms", 300_000_000),
            ("10µs", 10_000),
            ("1m", 60_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "5", "s", "1x", "1h3", ".", "-5s", "999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_may_have_a_base_and_must_fit() {
        assert_eq!(parse_uint("0x10"), Ok(16));
        assert_eq!(parse_int("-1"), Ok(-1));
        assert_eq!(parse_uint("-1"), Err(PARSE_ERROR.into()));
        assert_eq!(parse_uint("18446744073709551616"), Err(RANGE_ERROR.into()));
        assert_eq!(parse_int("9223372036854775808"), Err(RANGE_ERROR.into()));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
    }
}
