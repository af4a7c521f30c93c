#ifndef PYKRUN_RESUME_H
#define PYKRUN_RESUME_H
/* The first thing a resumed program does. */
static inline void resume_prepare(void) {}
#endif
