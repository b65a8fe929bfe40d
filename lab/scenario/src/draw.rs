//! Lists, and variables whose value is drawn, as scenario files have them.

use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::{Bytes, Extent, Literal, Scalar};

/// A list of at least one value.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct List<T>(#[schemars(length(min = 1))] pub(super) Vec<T>);

/// A variable drawn from the seed: one of the multiples of `align` in a range, or one of a list.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Draw {
    /// One of these.
    OneOf(List<Scalar<Literal>>),
    /// A multiple of `align` in a range.
    Within(Within),
}

/// A multiple of `align` in a range.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Within {
    /// The range, its end not included.
    pub(super) within: Scalar<Extent>,
    /// What the value is a multiple of. 4K where absent.
    pub(super) align: Option<Scalar<Bytes>>,
}
