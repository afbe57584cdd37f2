//! How a larder ends and how the next one takes its place: nobody's answer is cut.
