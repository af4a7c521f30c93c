/* What the library's own C and the C that cffi writes know of each other. Nothing of this is exported. */

#ifndef PYKRUN_LIBRARY_H
#define PYKRUN_LIBRARY_H

#pragma GCC visibility push(hidden)

/* Import everything, and let the functions lead to Python; 0 on success. */
int krunlib_start_cffi(void);

/* Note how this process handles each signal; one place for all threads. */
void krunlib_save_signals(void);

/* Whether the noted handling of a signal was another than the default. */
int krunlib_is_handled(int number);

/* Go back to that. */
void krunlib_restore_signals(void);

#pragma GCC visibility pop

#endif
