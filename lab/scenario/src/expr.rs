//! Sizes, simple arithmetic and ranges of a scenario: `4K`, `2M+$offset`, `1M..11M`, `12T..+1G`.

use std::fmt;
use std::ops::Range;

use super::vars::{Fault, Vars, is_name, whole_variable};

/// Units of a size, each 1024 times the one before.
const UNITS: [(char, u64); 4] = [
    ('K', 1 << 10),
    ('M', 1 << 20),
    ('G', 1 << 30),
    ('T', 1 << 40),
];

/// No value of a scenario is larger. Keeps every sum and product far from overflow.
const LARGEST: i128 = 1 << 52;

/// Most parentheses inside each other.
const DEEPEST: usize = 16;

/// Most numbers and variables of one sum, and its longest text: it is read anew for every plan and round.
const MOST_TERMS: usize = 64;
const LONGEST: usize = 500;

const HOW_TO_WRITE_A_RANGE: &str = "a range is written `start..end` or `start..+length`";

/// A number of bytes, printed in the largest unit that leaves no rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .rev()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        match unit {
            Some((letter, unit)) => write!(f, "{}{letter}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

/// The value of a sum such as `2M+$offset`.
pub(super) fn value(text: &str, vars: &Vars) -> Result<i64, Fault> {
    through_variable(text, vars, |resolved| {
        let mut cursor = Cursor::new(resolved, vars);
        let value = cursor.sum(0)?;
        cursor.end()?;
        Ok(value)
    })
}

/// The value of a sum that cannot be negative.
pub(super) fn unsigned(text: &str, vars: &Vars) -> Result<u64, Fault> {
    let value = value(text, vars)?;
    u64::try_from(value).map_err(|_| {
        Fault::new(
            0..text.len(),
            format!("{value} is less than 0"),
            "less than 0",
        )
    })
}

/// The ends of a range: `1M..11M`, or start and length, `12T..+1G`.
pub(super) fn range(text: &str, vars: &Vars) -> Result<Range<u64>, Fault> {
    through_variable(text, vars, |resolved| Cursor::new(resolved, vars).range())
}

/// Reads the value of the variable that is all of `text`, or `text` itself. Errors point at the
/// variable, not at its definition.
fn through_variable<T>(
    text: &str,
    vars: &Vars,
    read: impl Fn(&str) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let resolved = vars.resolve(text)?;
    let result = match resolved.len() {
        0..=LONGEST => read(resolved),
        long => Err(Fault::new(
            0..text.len(),
            format!("a value of {long} bytes is too long to be read"),
            "too long",
        )
        .help(format!("at most {LONGEST}"))),
    };
    if whole_variable(text.trim()).is_none() {
        return result;
    }
    result.map_err(|fault| Fault {
        message: format!("{} (`{}` is `{resolved}` here)", fault.message, text.trim()),
        at: 0..text.len(),
        ..fault
    })
}

/// Reads one scalar from left to right.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Numbers and variables so far.
    terms: usize,
    vars: &'a Vars,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str, vars: &'a Vars) -> Cursor<'a> {
        Cursor {
            text,
            at: 0,
            terms: 0,
            vars,
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Takes the longest run of characters that `wanted` accepts.
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.skip_blanks();
        let rest = self.rest();
        if rest.is_empty() {
            return Ok(());
        }
        if rest.starts_with("..") {
            return Err(Fault::new(
                self.at..self.text.len(),
                format!("`{}` is a range", self.text),
                "expected one value",
            ));
        }
        Err(self.stray("does not belong here"))
    }

    /// The error for missing or unexpected text.
    fn stray(&self, label: &str) -> Fault {
        let rest = self.rest();
        let fault = Fault::new(
            self.at..self.text.len(),
            format!("cannot read `{rest}`"),
            label,
        );
        if rest.starts_with('.') && !rest.starts_with("..") {
            fault.help("sizes are whole numbers; write `1536K` for one and a half M")
        } else {
            fault.help(HOW_TO_WRITE_A_RANGE)
        }
    }

    fn range(&mut self) -> Result<Range<u64>, Fault> {
        let whole = 0..self.text.len();
        let start = self.offset()?;
        if !self.eat("..") {
            self.skip_blanks();
            let rest = self.rest();
            return Err(if rest.is_empty() {
                let message = format!("`{}` is not a range", self.text);
                Fault::new(whole, message, "has no end").help(HOW_TO_WRITE_A_RANGE)
            } else {
                self.stray("expected START..END")
            });
        }
        let by_length = self.eat("+");
        let end_at = self.at;
        let end = self.offset()?;
        self.end()?;
        let end = if by_length { start + end } else { end };
        if end < start {
            let (low, high) = (Bytes(end), Bytes(start));
            return Err(Fault::new(
                whole,
                format!("the range ends at {low}, before it starts at {high}"),
                "reversed",
            )
            .help(format!(
                "write `{low}..{high}`, or `{high}..+{low}` for start and length"
            )));
        }
        if end == start {
            return Err(Fault::new(
                end_at..self.text.len(),
                "the range is empty",
                "same as its start",
            )
            .help("a range ends after its last byte: the first 4K are `0..4K`"));
        }
        Ok(start..end)
    }

    fn offset(&mut self) -> Result<u64, Fault> {
        self.skip_blanks();
        let from = self.at;
        let value = self.sum(0)?;
        u64::try_from(value).map_err(|_| {
            Fault::new(
                from..self.at,
                format!("an address cannot be {value}"),
                "less than 0",
            )
            .help(HOW_TO_WRITE_A_RANGE)
        })
    }

    fn sum(&mut self, depth: usize) -> Result<i64, Fault> {
        let from = self.at;
        let mut sum = self.product(depth)?;
        loop {
            let term = if self.eat("+") {
                i128::from(self.product(depth)?)
            } else if self.eat("-") {
                -i128::from(self.product(depth)?)
            } else {
                return Ok(sum);
            };
            sum = self.bounded(from, i128::from(sum) + term)?;
        }
    }

    fn product(&mut self, depth: usize) -> Result<i64, Fault> {
        let from = self.at;
        let mut product = self.factor(depth)?;
        while self.eat("*") {
            let factor = self.factor(depth)?;
            product = self.bounded(from, i128::from(product) * i128::from(factor))?;
        }
        Ok(product)
    }

    fn factor(&mut self, depth: usize) -> Result<i64, Fault> {
        if depth > DEEPEST {
            return Err(Fault::new(
                self.at..self.text.len(),
                format!("more than {DEEPEST} parentheses and signs inside each other"),
                "too deep",
            ));
        }
        if self.eat("(") {
            let open = self.at - 1;
            let value = self.sum(depth + 1)?;
            return if self.eat(")") {
                Ok(value)
            } else {
                Err(Fault::new(
                    open..open + 1,
                    "`(` without `)`",
                    "never closed",
                ))
            };
        }
        if self.eat("-") {
            return Ok(-self.factor(depth + 1)?);
        }
        if self.eat("+") {
            return self.factor(depth + 1);
        }
        self.skip_blanks();
        self.terms += 1;
        if self.terms > MOST_TERMS {
            return Err(Fault::new(
                self.at..self.text.len(),
                format!("more than {MOST_TERMS} numbers and variables in one value"),
                "too many",
            ));
        }
        if self.rest().starts_with('$') {
            self.variable()
        } else {
            self.number()
        }
    }

    fn variable(&mut self) -> Result<i64, Fault> {
        let from = self.at;
        self.at += 1;
        let braced = self.rest().starts_with('{');
        self.at += usize::from(braced);
        let name = self.take(|c| c.is_ascii_alphanumeric() || c == '_');
        if braced && !self.rest().starts_with('}') || !is_name(name) {
            return Err(
                Fault::new(from..self.text.len(), "`$` without a name", "no variable")
                    .help("a variable is written `$name` or `${name}`"),
            );
        }
        self.at += usize::from(braced);
        let text = match self.vars.get(name) {
            Some(text) => text,
            None => return Err(self.vars.unknown(name, from..self.at)),
        };
        self.vars.count_work(text);
        let part = self.part();
        let literal = Vars::default();
        let value = match part {
            Some(_) => range(text, &literal).map(|range| match part {
                Some("start") => range.start as i64,
                Some("end") => range.end as i64,
                _ => (range.end - range.start) as i64,
            }),
            None => value(text, &literal),
        };
        value.map_err(|fault| Fault {
            message: format!("{} (`${name}` is `{text}` here)", fault.message),
            at: from..self.at,
            label: fault.label,
            help: match part {
                None if text.contains("..") => Some(format!(
                    "take a part of the range: `${name}.start`, `${name}.end` or `${name}.len`"
                )),
                _ => fault.help,
            },
        })
    }

    /// The part of a range variable that follows its name: `.start`, `.end`, `.len`.
    fn part(&mut self) -> Option<&'static str> {
        let rest = self.rest().strip_prefix('.')?;
        let part = ["start", "end", "len"]
            .into_iter()
            .find(|part| rest.starts_with(part))?;
        self.at += 1 + part.len();
        Some(part)
    }

    fn number(&mut self) -> Result<i64, Fault> {
        let from = self.at;
        if let Some(hex) = self.rest().strip_prefix("0x") {
            let digits = hex.len()
                - hex
                    .trim_start_matches(|c: char| c.is_ascii_hexdigit())
                    .len();
            self.at += 2 + digits;
            let value = i128::from_str_radix(&hex[..digits], 16).map_err(|_| {
                Fault::new(
                    from..self.at,
                    "`0x` without a number this lab can hold",
                    "no number",
                )
            })?;
            return self.bounded(from, value);
        }
        let digits = self.take(|c| c.is_ascii_digit());
        if digits.is_empty() {
            return Err(self.no_number());
        }
        let number: i128 = digits.parse().map_err(|_| self.too_large(from))?;
        let unit = self.take(|c| c.is_alphanumeric() || c == '_');
        let factor = match unit {
            "" => 1,
            _ => match UNITS.iter().find(|(letter, _)| unit.chars().eq([*letter])) {
                Some((_, factor)) => *factor,
                None => return Err(self.bad_unit(digits, unit)),
            },
        };
        match number.checked_mul(i128::from(factor)) {
            Some(value) => self.bounded(from, value),
            None => Err(self.too_large(from)),
        }
    }

    fn no_number(&self) -> Fault {
        let rest = self.rest();
        let fault = if rest.is_empty() {
            Fault::new(
                0..self.text.len(),
                format!("`{}` is not a number", self.text),
                "ends too soon",
            )
        } else {
            Fault::new(
                self.at..self.text.len(),
                format!("`{rest}` is not a number"),
                "no number",
            )
        };
        fault.help("sizes look like `4K`, `2M`, `1G`, `16T`, `0x1000`")
    }

    fn bad_unit(&self, digits: &str, unit: &str) -> Fault {
        let at = self.at - unit.len()..self.at;
        let letter = unit.chars().next().map(|c| c.to_ascii_uppercase());
        let meant = letter.filter(|letter| UNITS.iter().any(|(unit, _)| unit == letter));
        let fault = Fault::new(at, format!("`{unit}` is not a unit"), "unknown unit");
        match meant {
            Some(letter) => fault.help(format!(
                "write `{digits}{letter}`: the units are K, M, G and T, each 1024 times the one before"
            )),
            None => fault.help("the units are K, M, G and T, each 1024 times the one before"),
        }
    }

    fn too_large(&self, from: usize) -> Fault {
        Fault::new(
            from..self.at,
            format!("the value is larger than {LARGEST}"),
            "too large",
        )
        .help("no number of a scenario is larger; as a size, that is 4096T")
    }

    fn bounded(&self, from: usize, value: i128) -> Result<i64, Fault> {
        if (-LARGEST..=LARGEST).contains(&value) {
            Ok(value as i64)
        } else {
            Err(self.too_large(from))
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn vars() -> Vars {
        let mut vars = Vars::default();
        vars.set("offset", "4K".to_owned());
        vars.set("hole", "1M..11M".to_owned());
        vars
    }

    #[rstest]
    #[case("0", 0)]
    #[case("4K", 4096)]
    #[case("16T", 16 << 40)]
    #[case("0x1000", 4096)]
    #[case("2M+$offset", (2 << 20) + 4096)]
    #[case("2M - 2*${offset}", (2 << 20) - 8192)]
    #[case("(1+2)*4K", 3 * 4096)]
    #[case("-6", -6)]
    #[case("+512", 512)]
    #[case("$hole.start", 1 << 20)]
    #[case("$hole.end-$hole.len", 1 << 20)]
    fn sums(#[case] text: &str, #[case] wanted: i64) {
        assert_eq!(value(text, &vars()), Ok(wanted));
    }

    #[rstest]
    #[case("1M..11M", 1 << 20, 11 << 20)]
    #[case("12T..+1G", 12 << 40, (12 << 40) + (1 << 30))]
    #[case("$hole", 1 << 20, 11 << 20)]
    #[case("$offset..$offset+$offset", 4096, 8192)]
    #[case("$hole.start..$hole.end", 1 << 20, 11 << 20)]
    fn ranges(#[case] text: &str, #[case] start: u64, #[case] end: u64) {
        assert_eq!(range(text, &vars()), Ok(start..end));
    }

    #[rstest]
    #[case("4k", "`k` is not a unit")]
    #[case("2MiB", "`MiB` is not a unit")]
    #[case("1.5M", "cannot read `.5M`")]
    #[case("", "`` is not a number")]
    #[case("$nothing", "there is no variable `$nothing`")]
    #[case("$hole+4K", "`1M..11M` is a range (`$hole` is `1M..11M` here)")]
    #[case(
        "99999999999999999999999999999999999999999T",
        "the value is larger than 4503599627370496"
    )]
    #[case("4T*4T", "the value is larger than 4503599627370496")]
    #[case("18446744073709551615", "the value is larger than 4503599627370496")]
    #[case(
        "((((((((((((((((((((1",
        "more than 16 parentheses and signs inside each other"
    )]
    fn bad_sums(#[case] text: &str, #[case] message: &str) {
        assert_eq!(value(text, &vars()).unwrap_err().message, message);
    }

    #[rstest]
    #[case("11M..1M", "the range ends at 1M, before it starts at 11M")]
    #[case("1M..1M", "the range is empty")]
    #[case("1M", "`1M` is not a range")]
    #[case("1M-2M", "an address cannot be -1048576")]
    #[case("1M...2M", "`.2M` is not a number")]
    fn bad_ranges(#[case] text: &str, #[case] message: &str) {
        assert_eq!(range(text, &vars()).unwrap_err().message, message);
    }

    #[test]
    fn a_value_has_a_bounded_length() {
        assert_eq!(value(&["1"; 64].join("+"), &vars()), Ok(64));
        let many = value(&["1"; 65].join("+"), &vars()).unwrap_err();
        assert!(many.message.contains("more than 64 numbers"), "{many:?}");
        let long = format!("{}4K", "0".repeat(500));
        for fault in [
            value(&long, &vars()).unwrap_err(),
            range(&format!("0..{long}"), &vars()).unwrap_err(),
        ] {
            assert!(fault.message.contains("too long"), "{fault:?}");
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        use proptest::prelude::*;
        proptest!(|(text in "[0-9KMGTx$a-z{}().+* -]{0,40}|.{0,40}")| {
            for fault in [value(&text, &vars()).err(), range(&text, &vars()).err()].into_iter().flatten() {
                prop_assert!(fault.at.end <= text.len() && fault.at.start <= fault.at.end);
            }
        });
    }
}
