//! The versioned .proto packages and the code made from them.
