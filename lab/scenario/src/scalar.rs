//! A single value of a scenario file. It may be a variable, so its meaning is known only once
//! variables have values; until then it is text with a kind.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Visitor};
use tdxlab_plan::addr::PageLevel;
use tdxlab_plan::{
    AccessKind, Backing, Converts, ExpectErrno, ExpectMapGpa, ExpectStatus, ExpectTd, Gone,
    HostKind, OnVe, Side, Size, SlotChange, TdxModule, VmmAnswer,
};

use super::expr;
use super::vars::{Fault, Vars, nearest};

/// A value of kind `K`, not yet read.
pub(super) struct Scalar<K> {
    text: String,
    kind: PhantomData<fn() -> K>,
}

/// What a scalar can mean.
pub(super) trait Kind {
    /// What reading it gives.
    type Value;
    /// Its name in the JSON Schema.
    const NAME: &'static str;
    /// Its JSON Schema.
    fn schema() -> Schema;
    /// Reads `text`.
    fn read(text: &str, vars: &Vars) -> Result<Self::Value, Fault>;
}

impl<K> Scalar<K> {
    /// What the file says.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl<K> Clone for Scalar<K> {
    fn clone(&self) -> Self {
        Scalar {
            text: self.text.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for Scalar<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl<'de, K> Deserialize<'de> for Scalar<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyScalar).map(|text| Scalar {
            text,
            kind: PhantomData,
        })
    }
}

/// Takes the text of any YAML scalar, whatever type YAML gives it.
struct AnyScalar;

impl Visitor<'_> for AnyScalar {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i128<E>(self, value: i128) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u128<E>(self, value: u128) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }
}

impl<K: Kind> JsonSchema for Scalar<K> {
    fn schema_name() -> Cow<'static, str> {
        K::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        K::schema()
    }
}

/// Anything: the value of a variable.
pub(super) struct Literal;

impl Kind for Literal {
    type Value = String;
    const NAME: &'static str = "Literal";

    fn schema() -> Schema {
        json_schema!({
            "description": "A value for a variable: a size, a range, a number or a word.",
            "type": ["string", "integer", "boolean"],
        })
    }

    fn read(text: &str, _: &Vars) -> Result<String, Fault> {
        if text.contains('$') {
            return Err(Fault::new(
                0..text.len(),
                "a variable cannot stand for another",
                "has a `$`",
            )
            .help("write the value itself; sums such as `$a+4K` stand where they are used"));
        }
        Ok(text.trim().to_owned())
    }
}

/// A number of bytes.
pub(super) struct Bytes;

impl Kind for Bytes {
    type Value = u64;
    const NAME: &'static str = "Bytes";

    fn schema() -> Schema {
        json_schema!({
            "description": "A size or an offset: `4K`, `2M`, `1G`, `16T`, `0x1000`, `2M+$offset`.",
            "type": ["string", "integer"],
            "minimum": 0,
            "pattern": r"^(0x[0-9a-fA-F]+|[0-9]+[KMGT]?)$|[$+*()-]",
        })
    }

    fn read(text: &str, vars: &Vars) -> Result<u64, Fault> {
        expr::unsigned(text, vars)
    }
}

/// A half-open range of test memory.
pub(super) struct Extent;

impl Kind for Extent {
    type Value = Range<u64>;
    const NAME: &'static str = "Range";

    fn schema() -> Schema {
        json_schema!({
            "description": "Offsets into test memory, the end not included: `1M..11M`, or start and length: `12T..+1G`.",
            "type": "string",
            "pattern": r"^(0x[0-9a-fA-F]+|[0-9]+[KMGT]?)\.\.\+?(0x[0-9a-fA-F]+|[0-9]+[KMGT]?)$|[$+*()-]",
        })
    }

    fn read(text: &str, vars: &Vars) -> Result<Range<u64>, Fault> {
        expr::range(text, vars)
    }
}

/// A number of things.
pub(super) struct Count;

impl Kind for Count {
    type Value = u64;
    const NAME: &'static str = "Count";

    fn schema() -> Schema {
        json_schema!({
            "description": "A number: `2`, `$n*2`.",
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": r"^[0-9]+[KMGT]?$|[$+*()-]",
        })
    }

    fn read(text: &str, vars: &Vars) -> Result<u64, Fault> {
        expr::unsigned(text, vars)
    }
}

/// A change of a counter.
pub(super) struct Change;

impl Kind for Change {
    type Value = i64;
    const NAME: &'static str = "Change";

    fn schema() -> Schema {
        json_schema!({
            "description": "A change of a counter, with its sign: `-1`, `+512`, `0`.",
            "type": ["integer", "string"],
            "pattern": r"^[-+]?[0-9]+[KMGT]?$|[$+*()-]",
        })
    }

    fn read(text: &str, vars: &Vars) -> Result<i64, Fault> {
        expr::value(text, vars)
    }
}

/// A kind of which every value has a name.
pub(super) trait Word: Copy + 'static {
    /// Its name in the JSON Schema.
    const NAME: &'static str;
    /// What it says, for messages: "a page level".
    const WHAT: &'static str;
    /// Every value by its name.
    const WORDS: &'static [(&'static str, Self)];
}

impl<W: Word> Kind for W {
    type Value = W;
    const NAME: &'static str = W::NAME;

    fn schema() -> Schema {
        let words: Vec<serde_json::Value> = W::WORDS
            .iter()
            .map(|(word, _)| word.parse::<bool>().map_or((*word).into(), Into::into))
            .collect();
        json_schema!({
            "description": format!("{}.", sentence_case(W::WHAT)),
            "anyOf": [
                { "enum": words },
                { "type": "string", "pattern": r"^\$(\{[A-Za-z_][A-Za-z0-9_]*\}|[A-Za-z_][A-Za-z0-9_]*)$" },
            ],
        })
    }

    fn read(text: &str, vars: &Vars) -> Result<W, Fault> {
        let word = vars.resolve(text)?.trim();
        let known = || W::WORDS.iter().map(|(word, _)| *word);
        if let Some((_, value)) = W::WORDS.iter().find(|(name, _)| *name == word) {
            return Ok(*value);
        }
        let mut message = format!("`{word}` is not {}", W::WHAT);
        if word != text.trim() {
            message += &format!(" (`{}` is `{word}` here)", text.trim());
        }
        let list = known().collect::<Vec<_>>().join("`, `");
        let help = match nearest(&word.to_lowercase(), known()) {
            Some(near) => format!("did you mean `{near}`? It can be `{list}`"),
            None => format!("it can be `{list}`"),
        };
        Err(Fault::new(0..text.len(), message, "not one of the known words").help(help))
    }
}

fn sentence_case(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

macro_rules! words {
    ($($kind:ident, $what:literal: $($word:literal = $value:expr),+;)+) => {
        $(impl Word for $kind {
            const NAME: &'static str = stringify!($kind);
            const WHAT: &'static str = $what;
            const WORDS: &'static [(&'static str, $kind)] = &[$(($word, $value)),+];
        })+
    };
}

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnOff {
    On,
    Off,
}

/// Stop or continue the vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopCont {
    Stop,
    Cont,
}

words! {
    bool, "a flag": "true" = true, "false" = false;
    PageLevel, "a page level":
        "4K" = PageLevel::Size4K, "2M" = PageLevel::Size2M, "1G" = PageLevel::Size1G;
    Size, "a size to accept at":
        "4K" = Size::Size4K, "2M" = Size::Size2M, "1G" = Size::Size1G, "linux" = Size::Linux;
    Side, "a side of guest memory": "private" = Side::Private, "shared" = Side::Shared;
    AccessKind, "a kind of access": "read" = AccessKind::Read, "write" = AccessKind::Write;
    OnVe, "an answer to #VE": "skip" = OnVe::Skip, "accept" = OnVe::Accept;
    Gone, "a way to treat memory that is gone":
        "skip" = Gone::Skip, "ends" = Gone::Ends, "every" = Gone::Every;
    Backing, "what memory is made of":
        "4K" = Backing::Small, "thp" = Backing::Transparent,
        "hugetlb-2M" = Backing::Hugetlb2M, "hugetlb-1G" = Backing::Hugetlb1G;
    OnOff, "a switch": "on" = OnOff::On, "off" = OnOff::Off;
    StopCont, "an order to the vCPUs": "stop" = StopCont::Stop, "cont" = StopCont::Cont;
    HostKind, "a host":
        "tdx" = HostKind::Tdx, "kvm" = HostKind::Kvm, "soft" = HostKind::Soft, "sim" = HostKind::Sim;
    Converts, "a way of converting":
        "attributes" = Converts::AttributesAndHole, "in_place" = Converts::InPlace;
    TdxModule, "a version of the TDX module":
        "1.5.01" = TdxModule::V1_5_01, "1.5.25" = TdxModule::V1_5_25,
        "1.5.34" = TdxModule::V1_5_34, "2.0.18" = TdxModule::V2_0_18;
    ExpectStatus, "a status of ACCEPT":
        "success" = ExpectStatus::Success,
        "already_accepted" = ExpectStatus::AlreadyAccepted,
        "size_mismatch" = ExpectStatus::SizeMismatch,
        "operand_invalid" = ExpectStatus::OperandInvalid;
    ExpectErrno, "a result of a host call":
        "ok" = ExpectErrno::Ok, "EINVAL" = ExpectErrno::EINVAL, "ENOMEM" = ExpectErrno::ENOMEM,
        "EFAULT" = ExpectErrno::EFAULT, "EAGAIN" = ExpectErrno::EAGAIN,
        "ENOTTY" = ExpectErrno::ENOTTY;
    ExpectMapGpa, "a status of MapGPA":
        "success" = ExpectMapGpa::Success, "retry" = ExpectMapGpa::Retry,
        "invalid_operand" = ExpectMapGpa::InvalidOperand, "align_error" = ExpectMapGpa::AlignError;
    SlotChange, "what becomes of a memory slot":
        "delete" = SlotChange::Delete, "add" = SlotChange::Add;
    VmmAnswer, "an answer of the VMM":
        "serve" = VmmAnswer::Serve, "delay" = VmmAnswer::Delay, "refuse" = VmmAnswer::Refuse;
    ExpectTd, "a fate of the TD": "alive" = ExpectTd::Alive, "killed" = ExpectTd::Killed;
}
