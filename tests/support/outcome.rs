//! What a check says: nothing, or in words what is wrong.

pub(crate) type Outcome<T = ()> = Result<T, String>;

/// Goes on where something holds, and returns these words where it does not.
macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

pub(crate) use ensure;
