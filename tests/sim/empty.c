/* A shared object that is no plugin. */
extern const int heed_sim_nothing;
const int heed_sim_nothing = 0;
