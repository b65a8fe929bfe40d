//! Names of scenarios and of the plans that are made of them.
//!
//! A name becomes a line on a terminal, in a kernel log and in reports of CI systems, and part of a
//! path. So what could pass for another line, steer a terminal, or leave a folder is no name.

/// Longest name of a scenario, in bytes.
const LONGEST: usize = 100;

/// Whether it can be the name of a scenario: small letters, digits and `-`, in folders.
pub fn is_of_scenario(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let word = |part: &str| !part.is_empty() && part.chars().all(letter);
    name.len() <= LONGEST && name.split('/').all(word)
}

/// Whether it can be the name of a plan: that of its scenario, then in brackets the case and the point
/// of the matrix, where there are any.
pub fn is_of_plan(name: &str) -> bool {
    let Some((scenario, rest)) = name.split_once('[') else {
        return is_of_scenario(name);
    };
    let label = rest.strip_suffix(']');
    is_of_scenario(scenario)
        && label.is_some_and(|label| !label.trim().is_empty() && unprintable(label).is_none())
}

/// The first letter of `text` that no name may have: a control character, another break of a line, or
/// one that XML cannot hold.
pub fn unprintable(text: &str) -> Option<char> {
    let odd =
        |c: &char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}');
    text.chars().find(odd)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("punch/head-and-tail", true)]
    #[case("t", true)]
    #[case("fuzz/0000000000c0ffee", true)]
    #[case("t/t[head,length=4K,gap=0]", true)]
    #[case("y3/c[a]b[c]", true)]
    #[case("linux/x[append=]", true)]
    #[case("x[größe]", true)]
    #[case("", false)]
    #[case("/etc/passwd", false)]
    #[case("../../x", false)]
    #[case("a/./b", false)]
    #[case("a//b", false)]
    #[case("Punch", false)]
    #[case("a b", false)]
    #[case("a\nok 1 - b", false)]
    #[case("a\u{1b}[31m]", false)]
    #[case("a[]", false)]
    #[case("a[ ]", false)]
    #[case("a[x", false)]
    #[case("a[x\n::error::y]", false)]
    #[case("a[x\u{ffff}]", false)]
    #[case("a[x\u{2028}]", false)]
    fn names(#[case] name: &str, #[case] good: bool) {
        assert_eq!(is_of_plan(name), good);
    }
}
