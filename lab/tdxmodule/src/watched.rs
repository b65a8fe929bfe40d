//! Whether a fault ever had an effect: compares a policy with the faithful one, answer by answer.
//!
//! The macro declares the trait [`Policy`](crate::policy::Policy) and, from the same text, a policy
//! that calls both. A method added to the trait is watched, too.

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
            /// Whether any answer differed from [`Faithful`]'s; `None` if not watched.
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
            /// Watches a policy that was not used yet.
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
