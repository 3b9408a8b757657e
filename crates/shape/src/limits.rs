//! Every bound on what a shape's definition can make the engine hold or compute, with its reason.

/// Bytes of a filter as text: far above what people write by hand.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;

/// Tokens of a filter. The parser builds chains such as `a = b = c` as a tree that is as deep as
/// the chain is long, and taking that apart takes stack.
pub const FILTER_TOKENS_MAX: usize = 4096;

/// Levels of parentheses and `NOT`: each costs the parser well over fifty kilobytes of stack in a
/// build without optimisation, and all have to fit a thread of two megabytes.
pub const FILTER_DEPTH_MAX: usize = 16;

/// Comparisons and other tests in a filter: each is work for every row that changes.
pub const FILTER_TESTS_MAX: usize = 256;

/// Values in one `IN` list. A list is searched, not scanned, so it may be longer than a filter has
/// tests; stores bind each value as a parameter, and SQLite takes 32,766 of those.
pub const IN_LIST_MAX: usize = 2000;

/// Bytes of one literal or parameter: a filter compares with keys, labels and limits, not with
/// documents.
pub const LITERAL_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a `LIKE` pattern: matching takes, at worst, the pattern's length times the text's.
pub const PATTERN_BYTES_MAX: usize = 512;

/// Digits of a numeric literal once its exponent is spelled out: Postgres itself takes 131,072.
pub const NUMERIC_DIGITS_MAX: usize = 1000;
