//! Versions of the TDX module that scenarios and software hosts can name.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A version of Intel's TDX module. Hosts of software play it; a TDX host has the one that it has.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum TdxModule {
    /// The first with sources: DEMOTE gives way to any interrupt, no Dynamic PAMT.
    #[serde(rename = "1.5.01")]
    V1_5_01,
    /// DEMOTE gives way to any interrupt.
    #[serde(rename = "1.5.25")]
    V1_5_25,
    /// DEMOTE is interrupted only where the TD has L2 VMs.
    #[serde(rename = "1.5.34")]
    V1_5_34,
    /// The same, for later processors; ACCEPT of a removed entry is a TD exit.
    #[serde(rename = "2.0.18")]
    V2_0_18,
}

impl TdxModule {
    /// All of them, oldest first.
    pub const ALL: [TdxModule; 4] = [
        TdxModule::V1_5_01,
        TdxModule::V1_5_25,
        TdxModule::V1_5_34,
        TdxModule::V2_0_18,
    ];

    /// As the module itself and sysfs have it: `1.5.01`.
    pub const fn name(self) -> &'static str {
        match self {
            TdxModule::V1_5_01 => "1.5.01",
            TdxModule::V1_5_25 => "1.5.25",
            TdxModule::V1_5_34 => "1.5.34",
            TdxModule::V2_0_18 => "2.0.18",
        }
    }
}

impl fmt::Display for TdxModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TdxModule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        TdxModule::ALL
            .into_iter()
            .find(|module| module.name() == text)
            .ok_or_else(|| {
                let known = TdxModule::ALL.map(TdxModule::name).join(", ");
                format!("there is no TDX module `{text}` here; known are {known}")
            })
    }
}
