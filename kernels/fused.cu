// What two or more layers do, in one pass over memory (protocaffe/fusion.py).
#include "portable.h"

// y[r, c] = max(y[r, c] + b[c], 0)
KERNEL fused_bias_relu(long rows, long cols, const store* b, store* y) {
  FOR_EACH_2D(r, rows, c, cols) {
    y[r * cols + c] = max_of(real(y[r * cols + c]) + real(b[c]), real(0));
  }
}
