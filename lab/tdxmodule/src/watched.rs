//! Whether a fault was ever reached: a policy is held against the faithful one, answer by answer.
//!
//! The macro declares the trait [`Policy`](crate::policy::Policy) and, from the same text, a policy that
//! asks both. A question that is added to the trait is watched, too.

/// Declares the trait and [`Watched`](crate::policy::Watched).
macro_rules! watched {
    (
        $(#[$about:meta])*
        pub trait Policy: Send {
            $(
                $(#[$question:meta])*
                fn $name:ident(&mut $this:ident $(, $arg:ident: $type:ty)* $(,)?) -> $answer:ty $right:block
            )+
        }
    ) => {
        $(#[$about])*
        pub trait Policy: Send {
            /// Whether an answer so far was another one than [`Faithful`]'s; `None` where nothing
            /// looks.
            fn reached(&self) -> Option<bool> {
                None
            }

            $(
                $(#[$question])*
                fn $name(&mut $this $(, $arg: $type)*) -> $answer $right
            )+
        }

        /// A policy, and whether it has answered anything otherwise than [`Faithful`] would.
        pub struct Watched {
            policy: Box<dyn Policy>,
            reached: bool,
        }

        impl Watched {
            /// Watches a policy that was not asked anything yet.
            pub fn new(policy: Box<dyn Policy>) -> Watched {
                Watched { policy, reached: false }
            }
        }

        #[allow(
            clippy::clone_on_copy,
            reason = "most, but not all of what is asked about is Copy"
        )]
        impl Policy for Watched {
            fn reached(&self) -> Option<bool> {
                Some(self.reached)
            }

            $(
                fn $name(&mut $this $(, $arg: $type)*) -> $answer {
                    let right = Faithful.$name($(<$type as Clone>::clone(&$arg)),*);
                    let answer = $this.policy.$name($($arg),*);
                    $this.reached |= answer != right;
                    answer
                }
            )+
        }
    };
}
pub(crate) use watched;
